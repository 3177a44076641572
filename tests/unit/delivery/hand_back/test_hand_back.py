"""Messages of a dead process are handed back once and in order, and the unit's command never fails."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl

from celery_fleet.common.redis_client import ClientError
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.hand_back import put_back as returning
from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.delivery.hand_back.worker_record import StartedTasks, WorkerRecord
from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import pending
from celery_fleet.delivery.scripts import FETCH
from celery_fleet.delivery.tags import Tags
from celery_fleet.system import hand_back
from scripts.ports import free_port
from tests.fleet import PASSWORDS, QUEUES, client
from tests.programs import DURABLE, knows_setinfo
from tests.support.certificates import Authority
from tests.support.redis_server import Server, redis_server

PROGRAM = Path(hand_back.__file__)
OPTIONS = Options(profile="at_least_once", fetch="atomic", hand_back=True, dead_letters=True)
NODE = "mail[1]*@host"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a broker with the roles' users, with and without TLS."""
    directory = tmp_path_factory.mktemp("broker")
    Authority("fleet").install(directory, "IP:127.0.0.1")
    users = acl.acl("broker", PASSWORDS, QUEUES, setinfo=knows_setinfo())
    with redis_server(directory, *DURABLE, users=users, tls=directory) as made:
        yield made


@pytest.fixture
def broker(server: Server) -> Iterator[redis.Redis]:
    """Return the broker with a worker's rights; the test fails if it refuses anything."""
    made = client(server.port, "worker")
    made.delete("unacked", "unacked_index", *lists(), keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX)
    admin = client(server.port, "admin")
    admin.acl_log_reset()
    yield made
    assert admin.acl_log() == []


def lists() -> list[str]:
    return [f"{queue}{step}" for queue in QUEUES for step in ("", *("\x06\x16" + s for s in "369"))]


def message(name: str, *, priority: int | None = None, **headers: Any) -> str:
    return json.dumps(
        {
            "body": "W10=",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": name, "task": "shop.add", **headers},
            "properties": {
                "correlation_id": name,
                "delivery_info": {"exchange": "", "routing_key": "mail"},
                "delivery_tag": str(uuid.uuid4()),
                "priority": priority,
                "body_encoding": "base64",
            },
        }
    )


class Dead:
    """A process that fetched messages and then died."""

    def __init__(
        self, directory: Path, server: Server, broker: redis.Redis, options: Options = OPTIONS
    ) -> None:
        self.directory = directory / "run"
        self.directory.mkdir()
        self.settings = directory / "worker.json"
        self.counts = directory / "shop-worker@mail.service.json"
        self.write_settings(f"redis://worker:{PASSWORDS['worker']}@127.0.0.1:{server.port}/0")
        self.owner = Owner(NODE)
        self.tags = Tags(self.owner)
        self.broker = broker
        self.begun = StartedTasks(self.owner, self.directory / worker_record.BEGUN)
        self.record = WorkerRecord.of(self.owner, {"visibility_timeout": 300}, options)
        self.record.write(self.directory)

    def write_settings(self, url: Any, **more: Any) -> None:
        self.settings.write_text(json.dumps({"celery": {"broker_url": url, **more}}))

    def take(self, item: str, queue: str = "mail", key: str | None = None) -> str:
        """Send and fetch a message; return its tag."""
        tag = self.tags.next()
        self.broker.lpush(key or queue, item)
        self.broker.script_load(FETCH.text)
        held = ("unacked", "unacked_index")
        self.broker.evalsha(FETCH.sha, 1, key or queue, tag, *held, json.dumps(queue))
        assert self.broker.hget("unacked", tag)
        return tag

    def hand_back(self, **more: float) -> str:
        broker = hand_back.BrokerServers.read(self.settings)
        return "\n".join(hand_back.hand_back(broker, self.directory, returning.Outcome(), **more))

    def run(self, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the hand-back as the unit does."""
        return subprocess.run(
            [
                *("/usr/bin/python3", "-S", "-I", str(PROGRAM), *self.arguments),
                *("--user", user or getpass.getuser()),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def arguments(self) -> list[str]:
        return [
            *("--settings", str(self.settings), "--directory", str(self.directory)),
            *("--counts", str(self.counts)),
        ]

    @property
    def counted(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.counts.read_text())
        return found

    def queued(self, key: str = "mail") -> list[dict[str, Any]]:
        """Return the queue's messages in the order in which they would be fetched."""
        return [json.loads(item) for item in reversed(self.broker_items(key))]

    def broker_items(self, key: str) -> list[bytes]:
        found: list[bytes] = client(self.port, "operator").lrange(key, 0, -1)
        return found

    @property
    def port(self) -> int:
        return int(self.broker.connection_pool.connection_kwargs["port"])

    def names(self, key: str = "mail") -> list[str]:
        return [item["headers"]["id"] for item in self.queued(key)]

    def held(self) -> set[str]:
        return {tag.decode() for tag in self.broker.zrange("unacked_index", 0, -1)}


@pytest.fixture
def dead(tmp_path: Path, server: Server, broker: redis.Redis) -> Iterator[Dead]:
    made = Dead(tmp_path, server, broker)
    yield made
    made.begun.close()


# --- what is handed back -----------------------------------------------------------------------------------


def test_a_drained_process_leaves_nothing_to_do(dead: Dead) -> None:
    assert dead.hand_back() == "<7>nothing was left to hand back"


def test_a_process_that_never_fetched_is_ignored(dead: Dead) -> None:
    (dead.directory / worker_record.RECORD).unlink()
    dead.write_settings("redis://127.0.0.1:1/0")
    assert dead.hand_back() == "<7>no process has taken tasks"


def test_messages_go_back_to_the_head_in_the_order_of_their_fetches(dead: Dead) -> None:
    # More than fit into one chunk, with numbers that sort differently as texts.
    taken = [f"t{number}" for number in range(45)]
    tags = [dead.take(message(name)) for name in taken]
    dead.broker.lpush("mail", message("waiting"))
    # A lease sets all times to the same value.
    dead.broker.zadd("unacked_index", dict.fromkeys(tags, 1.0))
    dead.begun.note(tags[0])

    assert dead.hand_back() == "<6>handed back 45 tasks, 1 of them had begun"

    assert dead.names() == [*taken, "waiting"]
    assert dead.held() == set()
    assert dead.broker.hget("unacked", tags[0]) is None


def test_a_message_goes_back_as_kombu_would_put_it_back(dead: Dead) -> None:
    sent = json.loads(message("one", priority=4, x="ü\u2028"))
    dead.take(json.dumps(sent, ensure_ascii=False), key="mail\x06\x163")

    assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"

    (found,) = dead.queued("mail\x06\x163")
    assert found.pop("headers") == {**sent.pop("headers"), "redelivered": True}
    information = found["properties"].pop("delivery_info")
    assert information == {**sent["properties"].pop("delivery_info"), "redelivered": True}
    assert found == sent


@pytest.mark.parametrize(
    ("priority", "key"),
    [(None, ""), (0, ""), (2, ""), (3, "3"), (5, "3"), (6, "6"), (9, "9"), (40, "9"), (-1, "")],
)
def test_a_message_goes_back_to_the_list_of_its_priority(
    dead: Dead, priority: int | None, key: str
) -> None:
    dead.take(message("one", priority=priority), "bulk")
    dead.hand_back()
    assert dead.names(f"bulk\x06\x16{key}" if key else "bulk") == ["one"]


def test_lists_of_other_steps_and_names(dead: Dead) -> None:
    transport = {"priority_steps": [0, 6], "sep": "\x06\x16", "unacked_key": "unacked"}
    WorkerRecord.of(dead.owner, transport, OPTIONS).write(dead.directory)
    dead.take(message("one", priority=5))
    dead.take(message("two", priority=7))
    dead.hand_back()
    assert (dead.names("mail"), dead.names("mail\x06\x166")) == (["one"], ["two"])


def test_messages_of_other_owners_stay(dead: Dead) -> None:
    mine = dead.take(message("mine"))
    others = []
    for owner in (
        Owner(NODE),  # the node's next start
        Owner("mail1@host", dead.owner.start),  # a pattern that is not escaped would match it
        Owner(f"{NODE}x", dead.owner.start),
    ):
        dead.tags = Tags(owner)
        others.append(dead.take(message("others")))
    stock = str(uuid.uuid4())
    dead.broker.zadd("unacked_index", {stock: 1.0})

    dead.hand_back()

    assert dead.held() == {*others, stock}
    assert mine not in dead.held()
    assert dead.names() == ["mine"]


def test_a_message_that_was_put_back_meanwhile_is_not_doubled(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = dead.take(message("one"))
    parse = returning.UnackedMessage.parse

    def late(*args: Any) -> Any:
        dead.broker.hdel("unacked", tag)
        return parse(*args)

    monkeypatch.setattr(returning.UnackedMessage, "parse", late)
    assert dead.hand_back() == "<7>nothing was left to hand back"
    assert dead.names() == []


def test_a_message_that_arrives_late_is_found_by_a_second_search(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead.take(message("one"))
    late: list[str] = []
    move = returning.Return._move

    def meanwhile(self: Any, *args: Any) -> None:
        move(self, *args)
        if not late:
            late.append(dead.take(message("late"), "bulk"))

    monkeypatch.setattr(returning.Return, "_move", meanwhile)
    assert dead.hand_back() == "<6>handed back 2 tasks, none of them had begun"
    assert (dead.names("mail"), dead.names("bulk")) == (["one"], ["late"])


def test_messages_go_back_without_the_tag_of_the_dead_process(dead: Dead) -> None:
    """A stock worker holds a message under the message's own tag, so it would count as the dead process's."""
    item = json.loads(message("one"))
    item["properties"]["delivery_tag"] = dead.tags.next()
    dead.take(json.dumps(item))
    dead.hand_back()
    (found,) = dead.queued()
    assert not dead.owner.holds(found["properties"]["delivery_tag"])


def test_ended_tasks_are_acknowledged_and_not_run_again(dead: Dead) -> None:
    tags = [dead.take(message(name)) for name in ("done", "doing", "cut")]
    for tag in tags:
        dead.begun.note(tag)
    stranger = Tags(Owner(NODE)).next()
    # The process died while it wrote the last line, which is now another tag.
    (dead.directory / pending.NAME).write_text(f"{tags[0]}\n{stranger}\n{tags[0]}\n{tags[2]}")

    assert dead.hand_back().splitlines() == [
        "<6>handed back 2 tasks, 2 of them had begun",
        "<6>acknowledged 1 task that had ended",
    ]
    assert dead.names() == ["doing", "cut"]
    assert dead.held() == set()


def test_unreadable_messages_stay_and_are_reported(dead: Dead) -> None:
    good = dead.take(message("good"))
    bad = dead.tags.next()
    for value in ("no json", '["text", "", "mail"]', f'[{message("x")}, "exchange", "mail"]'):
        bad = dead.tags.next()
        dead.broker.hset("unacked", bad, value)
        dead.broker.zadd("unacked_index", {bad: 1.0})

    first, second = dead.hand_back().splitlines()
    assert first == "<6>handed back 1 task, none of them had begun"
    assert second == (
        "<4>3 messages could not be handed back (the atomic fetch did not write it); what is left"
        " waits until its lease expires, after 300 s"
    )
    assert len(dead.held()) == 3
    assert good not in dead.held()
    for tag in dead.held():
        dead.broker.hdel("unacked", tag)


def test_an_index_entry_without_a_message_is_removed(dead: Dead) -> None:
    dead.broker.zadd("unacked_index", {dead.tags.next(): 1.0})
    assert dead.hand_back() == "<7>nothing was left to hand back"
    assert dead.held() == set()


def test_a_message_of_many_megabytes_is_handed_back(dead: Dead) -> None:
    dead.take(message("big", padding="x" * (8 << 20)))
    assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"
    assert dead.names() == ["big"]


def test_messages_are_handed_back_at_the_memory_limit(dead: Dead, server: Server) -> None:
    tags = [dead.take(message(name)) for name in ("one", "two", "three")]
    (dead.directory / pending.NAME).write_text(f"{tags[2]}\n")
    admin = client(server.port, "admin")
    admin.config_set("maxmemory", 1)
    try:
        assert dead.hand_back().splitlines() == [
            "<6>handed back 2 tasks, none of them had begun",
            "<6>acknowledged 1 task that had ended",
        ]
    finally:
        admin.config_set("maxmemory", "0")
    assert dead.names() == ["one", "two"]


# --- poison -------------------------------------------------------------------------------------------


def deaths(item: dict[str, Any]) -> object:
    return item["headers"].get(keys.DEATHS)


def test_only_tasks_that_had_begun_count_a_death(dead: Dead) -> None:
    dead.begun.note(dead.take(message("began", **{keys.DEATHS: 1})))
    dead.take(message("waited"))
    ended = dead.take(message("ended"))
    dead.begun.note(ended)
    dead.begun.forget(ended)

    assert dead.hand_back() == "<6>handed back 3 tasks, 1 of them had begun"
    assert [deaths(item) for item in dead.queued()] == [2, None, None]


def crashes(item: dict[str, Any]) -> object:
    return item["headers"].get(keys.CRASHES)


def test_a_death_is_shared_out_among_the_tasks_that_ran(dead: Dead) -> None:
    for name in ("one", "two", "three"):
        dead.begun.note(dead.take(message(name)))
    dead.take(message("waited"))
    # This one was recorded, and acknowledged before the death, so it has no share.
    dead.begun.note(dead.tags.next())

    assert dead.hand_back() == "<6>handed back 4 tasks, 3 of them had begun"
    assert [deaths(item) for item in dead.queued()] == [0.333, 0.333, 0.333, None]
    assert [crashes(item) for item in dead.queued()] == [1, 1, 1, None]


def test_a_death_counts_for_tasks_that_ran_at_earlier_deaths(dead: Dead) -> None:
    dead.begun.note(dead.take(message("fresh")))
    dead.begun.note(dead.take(message("suspect", **{keys.DEATHS: 0.5, keys.CRASHES: 2})))
    dead.begun.note(dead.take(message("once", **{keys.DEATHS: 0.25, keys.CRASHES: 1})))
    dead.hand_back()
    assert [deaths(item) for item in dead.queued()] == [0, 1.5, 0.25]
    assert [crashes(item) for item in dead.queued()] == [1, 3, 2]


def test_thirds_of_deaths_add_up(dead: Dead) -> None:
    dead.begun.note(dead.take(message("poison", **{keys.DEATHS: 1.999, keys.CRASHES: 5})))
    assert "dead letters" in dead.hand_back()


def test_a_task_that_keeps_killing_its_process_becomes_a_dead_letter(
    dead: Dead, broker: redis.Redis
) -> None:
    item = message("poison", priority=6)
    for number in (1, 2):
        dead.begun.note(dead.take(item, key="mail\x06\x166"))
        assert dead.hand_back() == "<6>handed back 1 task, 1 of them had begun"
        item = broker.rpop("mail\x06\x166").decode()
        assert deaths(json.loads(item)) == number
    dead.begun.note(dead.take(item, key="mail\x06\x166"))

    assert dead.hand_back() == (
        "<4>1 task moved to the dead letters, because the worker kept dying while they ran:"
        " celery-fleet dead-letters list --reason poison"
    )
    assert dead.names("mail\x06\x166") == []
    assert dead.held() == set()
    text = broker.hget(keys.DEAD_LETTERS, "poison")
    letter = dead_letters.DeadLetter.parse(text)
    assert (letter.id, letter.task, letter.queue, letter.reason, letter.node, letter.key) == (
        *("poison", "shop.add", "mail", "poison", NODE),
        "mail\x06\x166",
    )
    assert letter.detail == "its worker died 3 times while it ran"
    assert json.loads(letter.message or "")["headers"]["id"] == "poison"


def test_without_dead_letters_such_a_task_goes_back_every_time(
    tmp_path: Path, server: Server, broker: redis.Redis
) -> None:
    options = Options(fetch="atomic", hand_back=True)
    dead = Dead(tmp_path, server, broker, options)
    dead.begun.note(dead.take(message("poison", **{keys.DEATHS: 7})))
    dead.hand_back()
    assert [deaths(item) for item in dead.queued()] == [8]
    dead.begun.close()


def test_a_malformed_count_starts_again_from_zero(dead: Dead) -> None:
    dead.begun.note(dead.take(message("one", **{keys.DEATHS: "many"})))
    dead.hand_back()
    assert [deaths(item) for item in dead.queued()] == [1]


def test_a_worker_that_is_killed_during_its_drain_counts_no_death(dead: Dead) -> None:
    dead.begun.note(dead.take(message("long", **{keys.DEATHS: 2})))
    (dead.directory / worker_record.STOPPING).touch()
    assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"
    assert [deaths(item) for item in dead.queued()] == [2]


# --- if it can't be done ----------------------------------------------------------------------------


def test_nothing_is_handed_back_while_a_process_of_the_worker_lives(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_back, "GONE", 0.1)
    tag = dead.take(message("one"))
    lock = worker_record.hold(dead.directory)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    # The main process has ended; its child has not.
    os.close(lock)
    try:
        assert dead.hand_back() == (
            f"<4>a process of {NODE} is still alive: nothing is handed back; what is left waits until its lease"
            " expires, after 300 s"
        )
        assert dead.held() == {tag}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"


def test_the_last_process_may_take_a_moment_to_end(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_back, "GONE", 60.0)  # on a busy machine the timer may be late
    dead.take(message("one"))
    lock = worker_record.hold(dead.directory)
    gone = threading.Timer(0.2, os.close, [lock])
    gone.start()
    assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"
    gone.join()


def test_a_program_that_a_task_runs_does_not_hold_the_lock(dead: Dead) -> None:
    dead.take(message("one"))
    lock = worker_record.hold(dead.directory)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        os.close(lock)
        assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"
        program.kill()


@pytest.mark.slow
def test_it_retries_until_its_time_is_over_while_redis_is_away(dead: Dead) -> None:
    dead.write_settings(f"redis://worker:{PASSWORDS['worker']}@127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    said = dead.hand_back(seconds=0.7)
    assert time.monotonic() - began < 10
    assert said.startswith("<4>it was not done within 1 s: Redis at 127.0.0.1:")
    assert said.endswith("; what is left waits until its lease expires, after 300 s")
    assert PASSWORDS["worker"] not in said


@pytest.mark.slow
def test_messages_are_handed_back_if_redis_comes_back_in_time(
    tmp_path: Path, server: Server, broker: redis.Redis
) -> None:
    dead = Dead(tmp_path, server, broker)
    dead.take(message("one"))
    server.stop()
    back = threading.Timer(0.5, server.start)
    back.start()
    assert dead.hand_back(seconds=60) == "<6>handed back 1 task, none of them had begun"
    back.join()
    assert dead.names() == ["one"]
    dead.begun.close()


def test_messages_are_handed_back_once_a_new_primary_has_its_replica(
    dead: Dead, server: Server
) -> None:
    """It refuses to write until then. Redis 7 says so itself, older ones by an error of the script."""
    dead.take(message("one"))
    admin = client(server.port, "admin")
    admin.config_set("min-replicas-to-write", 1)
    back = threading.Timer(1, admin.config_set, ("min-replicas-to-write", 0))
    back.start()
    try:
        assert dead.hand_back(seconds=60) == "<6>handed back 1 task, none of them had begun"
    finally:
        back.join()
    assert dead.names() == ["one"]


@pytest.mark.parametrize(
    ("text", "temporary"),
    [
        ("NOREPLICAS Not enough good replicas to write.", True),
        (
            "ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -NOREPLICAS Not enough",
            True,
        ),
        ("LOADING Redis is loading the dataset in memory", True),
        ("NOPERM this user has no permissions to run the 'evalsha' command", False),
        ("ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed", False),
        ("NOREPLICASATALL", False),
    ],
)
def test_errors_that_redis_soon_stops_giving(text: str, temporary: bool) -> None:
    assert ClientError(text).temporary is temporary


@pytest.mark.slow
def test_a_redis_that_hangs_does_not_block_the_unit(
    dead: Dead, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_back, "ANSWER", 0.2)
    dead.take(message("one"))
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        said = dead.hand_back(seconds=1)
        assert time.monotonic() - began < 10
    finally:
        server.signal(signal.SIGCONT)
    assert said.startswith("<4>it was not done within 1 s: Redis at 127.0.0.1:")
    # No unanswered command was carried out in part.
    assert dead.hand_back() == "<6>handed back 1 task, none of them had begun"


def test_time_that_ends_in_a_tls_handshake_leaves_no_socket_open(dead: Dead) -> None:
    """An open one would warn (ResourceWarning), which fails a test."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rediss://worker:x@127.0.0.1:{silent.getsockname()[1]}/0"
        dead.take(message("one"))
        dead.write_settings(url)
        assert dead.hand_back(seconds=0.3).startswith("<4>it was not done within 0 s")


def test_a_refused_login_is_not_retried(dead: Dead) -> None:
    dead.write_settings(f"redis://worker:wrong-password@127.0.0.1:{dead.port}/0")
    began = time.monotonic()
    said = dead.hand_back(seconds=60)
    assert time.monotonic() - began < 30
    assert said.startswith(f"<4>Redis at 127.0.0.1:{dead.port}: WRONGPASS")
    assert "wrong-password" not in said
    client(dead.port, "admin").acl_log_reset()


def test_one_of_several_addresses_answers(dead: Dead) -> None:
    dead.take(message("one"))
    here = f"redis://worker:{PASSWORDS['worker']}@127.0.0.1:{dead.port}/0"
    away = f"redis://worker:x@127.0.0.1:{free_port()}/0"
    for url in ([away, here], f"{away};{here}"):
        dead.write_settings(url)
        assert "handed back 1 task" in dead.hand_back()
        dead.broker.delete("mail")
        dead.take(message("one"))


@pytest.mark.slow
def test_a_pipe_without_a_writer_does_not_block_the_unit(
    dead: Dead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hand_back, "BOUND", 0.5)
    for name in (worker_record.RECORD, worker_record.BEGUN, pending.NAME):
        path = dead.directory / name
        content = path.read_bytes() if path.exists() else b""
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        # This needs a separate process, because the program forks.
        opens = f"import os, time; time.sleep(20); os.open({str(path)!r}, os.O_RDWR)"
        writer = subprocess.Popen([sys.executable, "-c", opens])
        began = time.monotonic()
        assert hand_back.main([*dead.arguments, "--user", getpass.getuser()]) == 0
        assert time.monotonic() - began < 15
        writer.kill()
        writer.wait()
        assert " not done within 0 s" in capsys.readouterr().out
        path.unlink()
        path.write_bytes(content)


def secured(dead: Dead, server: Server, scheme: str = "rediss", **options: Any) -> str:
    """Return the hand-back's output over TLS, with these options in addition to the roles'."""
    secured_settings(dead, server, scheme, **options)
    began = time.monotonic()
    said = dead.hand_back(seconds=60)
    assert time.monotonic() - began < 30
    return said


def secured_settings(
    dead: Dead, server: Server, scheme: str = "rediss", host: str = "127.0.0.1", **options: Any
) -> None:
    url = f"{scheme}://worker:{PASSWORDS['worker']}@{host}:{server.tls_port}/0"
    ca = str(server.directory / "ca.crt")
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": ca, "ssl_check_hostname": True}
    dead.write_settings(url, broker_use_ssl={**tls, **options})


def test_it_works_over_tls_with_the_roles_options(
    dead: Dead, server: Server, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_text(Authority("other").pem)
    tag = dead.take(message("one"))
    assert "certificate verify failed" in secured(dead, server, ssl_ca_certs=str(other))
    assert "No such file" in secured(dead, server, ssl_ca_certs=str(tmp_path / "none.crt"))
    assert dead.held() == {tag}
    assert secured(dead, server) == "<6>handed back 1 task, none of them had begun"
    dead.broker.delete("mail")

    # kombu uses TLS if it has options for it, even if the scheme says otherwise.
    dead.take(message("one"))
    assert secured(dead, server, scheme="redis") == "<6>handed back 1 task, none of them had begun"
    dead.broker.delete("mail")

    dead.take(message("two"))
    said = secured(dead, server, ssl_cert_reqs="none", ssl_ca_certs=str(other))
    assert said == "<6>handed back 1 task, none of them had begun"


def test_a_certificate_for_another_name_is_refused(dead: Dead, server: Server) -> None:
    """Any host of the fleet has a certificate of the same authority, and the client would send it the password."""
    tag = dead.take(message("one"))
    assert "not valid for 'localhost'" in secured(dead, server, host="localhost")
    assert dead.held() == {tag}
    said = secured(dead, server, host="localhost", ssl_check_hostname=False)
    assert said == "<6>handed back 1 task, none of them had begun"


@pytest.mark.slow
def test_a_certificate_with_a_key_that_only_root_reads_is_shown(
    dead: Dead, server: Server, tmp_path: Path
) -> None:
    """Redis asks for it; the key is read before root becomes the worker's user, who can't read it."""
    client(server.port, "admin").config_set("tls-auth-clients", "yes")
    try:
        tag = dead.take(message("one"))
        secured_settings(dead, server)
        assert "handed back" not in dead.hand_back(seconds=2)
        assert dead.held() == {tag}
        other = tmp_path / "other.crt"
        other.write_text(Authority("fleet").issue(["IP:127.0.0.1"])[0])
        key = tmp_path / "client.key"
        key.write_text((server.directory / "host.key").read_text())
        shown = {"ssl_certfile": str(server.directory / "host.crt"), "ssl_keyfile": str(key)}
        secured_settings(dead, server, **{**shown, "ssl_certfile": str(other)})
        assert "KEY_VALUES_MISMATCH" in dead.hand_back(seconds=2)
        assert "No such file" in secured(dead, server, **{**shown, "ssl_keyfile": "/none.key"})
        assert dead.held() == {tag}

        secured_settings(dead, server, **shown)
        broker = hand_back.BrokerServers.read(dead.settings)
        key.unlink()
        said = hand_back.hand_back(broker, dead.directory, returning.Outcome())
        assert said == ["<6>handed back 1 task, none of them had begun"]
    finally:
        client(server.port, "admin").config_set("tls-auth-clients", "no")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"celery": {}}',
        '{"celery": {"broker_url": null}}',
        '{"celery": {"broker_url": []}}',
        '{"celery": {"broker_url": "amqp://user:s3cr3t@host/"}}',
        '{"celery": {"broker_url": "sentinel://:s3cr3t@host:26379"}}',
        '{"celery": {"broker_url": "redis://user:s3cr3t@host:port/"}}',
        '{"celery": {"broker_url": "redis://user:s3cr3t@host/name"}}',
    ],
)
def test_settings_without_a_redis_are_reported(dead: Dead, text: str) -> None:
    dead.settings.write_text(text)
    done = dead.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"<4>nothing is handed back: {dead.settings} names no Redis")
    assert "s3cr3t" not in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "node": "n", "start": "s", "lease": 1, "steps": [0], "more": 1}',
        '{"format": 1, "node": 1, "start": "s", "lease": 1, "steps": [0]}',
        '{"format": 1, "node": "n", "start": "s", "lease": "1", "steps": [0]}',
        '{"format": 1, "node": "n", "start": "s", "lease": 1, "steps": []}',
        '{"format": 1, "node": "n", "start": "s", "lease": 1, "steps": ["0"]}',
        '{"format": 1, "node": "n", "start": "s", "lease": 1, "steps": 5}',
        "\udcff",
    ],
)
def test_a_malformed_worker_record_is_reported(dead: Dead, text: str) -> None:
    tag = dead.take(message("one"))
    path = dead.directory / worker_record.RECORD
    path.write_bytes(text.encode(errors="surrogateescape"))
    done = dead.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"<4>nothing is handed back: {path}")
    assert dead.held() == {tag}


def test_missing_settings_are_reported(dead: Dead) -> None:
    dead.settings.unlink()
    done = dead.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "can't be read (No such file or directory)" in done.stdout


# --- as the unit runs it ------------------------------------------------------------------------------


def test_it_only_needs_the_standard_library(dead: Dead) -> None:
    """`-S` leaves out site-packages. It must be quick, because a restart waits for it."""
    dead.begun.note(dead.take(message("one")))
    done = dead.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "<6>handed back 1 task, 1 of them had begun\n"
    zero = {"acknowledged": 0, "parked": 0, "left": 0}
    assert dead.counted == {"format": 1, **zero, "returned": 1, "begun": 1}


def test_outcomes_are_summed_over_all_ends(dead: Dead) -> None:
    for name in ("one", "two"):
        dead.begun.note(dead.take(message(name)))
        dead.run()
    assert (dead.counted["returned"], dead.counted["begun"]) == (2, 2)
    unreadable = dead.tags.next()
    dead.broker.hset("unacked", unreadable, "no json")
    dead.broker.zadd("unacked_index", {unreadable: 1.0})
    dead.run()
    assert (dead.counted["returned"], dead.counted["left"]) == (2, 1)


def test_counters_that_can_not_be_written_do_not_stop_the_hand_back(dead: Dead) -> None:
    dead.counts = dead.counts.parent / "none" / "counts.json"
    dead.take(message("one"))
    done = dead.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "<6>handed back 1 task" in done.stdout
    assert "<4>this hand-back is not counted: " in done.stdout


def test_root_becomes_the_user_before_it_speaks_to_redis(
    dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    done: list[object] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "initgroups", lambda *given: done.append(given))
    monkeypatch.setattr(os, "setgid", lambda number: done.append(("group", number)))
    monkeypatch.setattr(os, "setuid", lambda number: done.append(("user", number)))
    monkeypatch.setattr(hand_back, "hand_back", lambda *_: done.append("work") or [])

    assert hand_back.main([*dead.arguments, "--user", "nobody"]) == 0
    # Groups come first, because they can't be changed after root has become another user.
    assert done == [
        ("nobody", nobody.pw_gid),
        ("group", nobody.pw_gid),
        ("user", nobody.pw_uid),
        "work",
    ]
    done.clear()
    assert hand_back.main([*dead.arguments, "--user", "no-such-user"]) == 0
    assert done == []
