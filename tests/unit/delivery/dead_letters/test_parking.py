"""Real workers on a real Redis that park messages and drop none."""

from __future__ import annotations

import base64
import json
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters.letters import misheaded, misshapen
from celery_fleet.delivery.dead_letters.store import Choice, DeadLetterStore
from tests.fleet import client, wait_for
from tests.unit.delivery.worker_group import PATIENCE, WorkerGroup, is_empty, message, worker_group

slow = pytest.mark.long


both = pytest.mark.parametrize("fleet", ["atomic", "stock"], indirect=True)


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorkerGroup]:
    with worker_group(tmp_path, getattr(request, "param", "atomic")) as made:
        yield made
        assert made.refused() == []


def header(raw: dict[str, Any], name: str) -> Any:
    return raw["headers"].get(name)


@slow
@both
def test_a_task_of_the_next_release_runs_once_on_a_worker_that_knows_it(fleet: WorkerGroup) -> None:
    fleet.worker("old", unknown_delay=0.5, unknown_for=3600.0)
    fleet.send(*(message(f"new-{n}", "shop.fresh", [[], {}, {}]) for n in range(10)))
    fleet.send(message("known"))
    # There are more unknown tasks than it prefetches, and the known one still gets through.
    fleet.heard("add", "known")
    wait_for(lambda: fleet.log("old").count("is not known to this worker") >= 20, PATIENCE)
    fleet.worker("new", environment={"NEW_RELEASE": "1"})
    fleet.heard("fresh", *(f"new-{n} new@test" for n in range(10)))
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert len(fleet.said("fresh")) == 10
    assert fleet.store.count() == 0
    assert fleet.said("signal-unknown") == []


@slow
@both
def test_a_task_that_no_worker_knows_is_parked_in_the_end(fleet: WorkerGroup) -> None:
    fleet.worker("a", unknown_delay=0.4, unknown_for=6.0)
    began = time.time()
    fleet.send(message("lost", "shop.none"), message("known"))
    fleet.heard("signal-unknown", "lost shop.none")
    [letter] = fleet.letters(1, payload=True).values()
    assert (letter.id, letter.task, letter.reason) == ("lost", "shop.none", "unknown")
    assert (letter.queue, letter.node, letter.count) == ("mail", "a@test", 1)
    assert letter.last_seen - letter.first_seen >= 5.9
    assert abs(letter.first_seen - began) < PATIENCE
    raw = json.loads(letter.message or "")
    assert header(raw, keys.UNKNOWN) >= 2
    assert fleet.said("signal-unknown") == ["lost shop.none"]
    assert fleet.result("lost")["status"] == "FAILURE"
    assert fleet.result("lost")["result"]["exc_type"] == "NotRegistered"
    fleet.heard("add", "known")
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert "secret" not in fleet.log("a")


def first(identifier: str, **more: Any) -> dict[str, Any]:
    """Return a message of protocol 1, whose body has what headers have in protocol 2."""
    body = {"task": "shop.add", "id": identifier, "args": [1, 2], "kwargs": {}, **more}
    return {**message(identifier, body=body), "headers": {}}


BAD = {
    "json": (message("json", body=b"{not json"), "undecodable"),
    "bytes": (message("bytes", body=b"\xff\xfe"), "undecodable"),
    "zipped": (message("zipped", body=b"no zip", compression="application/x-gzip"), "undecodable"),
    "pickle": (
        {
            **message("pickle", body=pickle.dumps([[1, 2], {}, {}])),
            "content-type": "application/x-python-serialize",
            "content-encoding": "binary",
        },
        "invalid",
    ),
    "eta": (message("eta", eta="the day after"), "invalid"),
    "list": (message("list", body=[1, 2, 3]), "malformed"),
    "short": (message("short", body=[[1]]), "malformed"),
    "number": (message("number", body=7), "malformed"),
    "text": (message("text", body="abc"), "malformed"),
    "args": (message("args", body=["ab", {}, {}]), "malformed"),
    "kwargs": (message("kwargs", body=[[], [], {}]), "malformed"),
    "options": (message("options", body=[[], {}, 5]), "malformed"),
    "four": (message("four", body=[[], {}, {}, {}]), "malformed"),
    "chain": (message("chain", body=[[1, 2], {}, {"chain": [{}]}]), "malformed"),
    "limit": (message("limit", timelimit=5), "malformed"),
    "limits": (message("limits", timelimit=[1, 2, 3]), "malformed"),
    "words": (message("words", timelimit=["a", "b"]), "malformed"),
    "shadow": (message("shadow", shadow=["x"]), "malformed"),
    "stamped": (message("stamped", stamped_headers=5), "malformed"),
    "stamps": (message("stamps", stamps=[1]), "malformed"),
    "first": (first("first", timelimit=5), "malformed"),
    "first-kwargs": (first("first-kwargs", kwargs=5), "invalid"),
    "first-shadow": (first("first-shadow", shadow={"a": 1}), "malformed"),
    "unhashable": (message("unhashable", task=["x"]), "malformed"),  # type: ignore[arg-type]  # on purpose
    "no-headers": ({**message("no-headers"), "headers": {}}, "malformed"),
    "null": ({**message("null"), "headers": None}, "malformed"),
    "no-id": (
        {**message("no-id"), "headers": {"task": "shop.add", "lang": "py"}},
        "malformed",
    ),
}


@slow
@both
def test_a_message_that_can_never_run_is_parked_at_once(fleet: WorkerGroup) -> None:
    worker = fleet.worker("a")
    for raw, _ in BAD.values():
        fleet.send(raw)
    fleet.send(message("good"))
    fleet.heard("add", "good")
    letters = fleet.letters(len(BAD), payload=True)
    assert {name: letters[name].reason for name in BAD} == {
        name: reason for name, (_, reason) in BAD.items()
    }
    for name, (raw, _) in BAD.items():
        assert json.loads(letters[name].message or "") == raw, "it was changed"
    assert fleet.said("add") == ["good"]
    assert worker.poll() is None
    wait_for(lambda: is_empty(fleet.look, "unacked", "unacked_index", "mail"), PATIENCE)
    # A replayed message is parked again, and counts from the first time on.
    [one] = fleet.store.choose(Choice(ids=("json",)), payload=True)
    fleet.send(json.dumps(BAD["json"][0]).encode())
    wait_for(lambda: fleet.store.read(["json"])[0].count == 2, PATIENCE)
    assert fleet.store.read(["json"])[0].first_seen == one.first_seen


@slow
@both
@pytest.mark.parametrize("task", ["deadly", "deadly_early", "deadly_rejected"])
def test_a_task_that_keeps_killing_its_process_is_parked(fleet: WorkerGroup, task: str) -> None:
    worker = fleet.worker("a", deaths=3)
    fleet.send(message("poison", f"shop.{task}", [[], {}, {}]))
    fleet.send(*(message(f"good-{n}") for n in range(20)))
    [letter] = fleet.letters(1, payload=True).values()
    fleet.heard("add", *(f"good-{n}" for n in range(20)))
    assert (letter.id, letter.reason, letter.task) == ("poison", "poison", f"shop.{task}")
    assert header(json.loads(letter.message or ""), keys.DEATHS) == 3
    fleet.heard("signal-failure", "poison WorkerLostError")
    result = fleet.result("poison")
    wait_for(lambda: fleet.result("poison")["status"] == "FAILURE", PATIENCE)
    assert result["task_id"] == "poison"
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert fleet.said(task) == ["poison"] * 3
    assert worker.poll() is None
    # After a repair, it may crash as often as before.
    assert fleet.store.replay(fleet.store.choose(Choice(), payload=True)) == [1]
    wait_for(lambda: fleet.said(task) == ["poison"] * 6, PATIENCE)
    assert fleet.letters(1)["poison"].reason == "poison"


@slow
@both
def test_a_chords_member_that_keeps_killing_its_process_after_its_success_is_parked(
    fleet: WorkerGroup,
) -> None:
    fleet.worker("a", deaths=3)
    chord = {"chord": {"task": "shop.add", "args": [], "kwargs": {}, "options": {}}}
    body = [[], {}, chord]
    fleet.send(message("member", "shop.deadly_member", body, group="g", group_index=0))
    [letter] = fleet.letters(1, payload=True).values()
    assert (letter.id, letter.reason) == ("member", "poison")
    assert "after it had succeeded" in letter.detail
    assert header(json.loads(letter.message or ""), keys.DEATHS) == 3
    assert fleet.said("deadly_member") == ["member"] * 3
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert fleet.result("member")["status"] == "SUCCESS"
    assert fleet.said("signal-failure") == []


@slow
def test_retries_end_when_the_task_says_so(fleet: WorkerGroup) -> None:
    fleet.worker("a", deaths=5)
    fleet.send(message("twice", "shop.deadly_once", [[], {}, {}]))
    fleet.heard("signal-failure", "twice WorkerLostError")
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert fleet.said("deadly_once") == ["twice"] * 2
    assert fleet.store.count() == 0


def failing(identifier: str, how: str) -> dict[str, Any]:
    return message(identifier, "shop.fails", [[how], {}, {}])


@slow
@both
def test_a_task_that_fails_for_good_is_kept_and_can_be_replayed(fleet: WorkerGroup) -> None:
    fleet.worker("a", failed=100)
    # None of these fails for good: they succeed, or give up by themselves.
    fleet.send(*(failing(how, how) for how in ("mended", "reject", "ignore")))
    fleet.send(failing("once", "at once"), failing("twice", "retries"))
    fleet.send(message("late", "shop.endless", [[], {}, {}]))
    fleet.send(message("died", "shop.deadly_once", [[], {}, {}]), message("good"))
    letters = fleet.letters(4, payload=True)
    fleet.heard("add", "good")
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert {name: (one.reason, one.detail.split(":")[0]) for name, one in letters.items()} == {
        "once": ("failed", "ValueError"),
        "twice": ("failed", "ValueError"),
        "late": ("failed", "TimeLimitExceeded"),
        "died": ("failed", "WorkerLostError"),
    }
    assert "hunter2" not in letters["once"].detail
    assert set(fleet.said("fails")) == {
        *("mended 0", "reject 0", "ignore 0", "once 0", "twice 0", "twice 1"),
    }
    for name in letters:
        assert fleet.result(name)["status"] == "FAILURE"
        fleet.heard("signal-failure", f"{name} {letters[name].detail.split(':')[0]}")
    # Replayed, it has all its retries again.
    [letter] = fleet.store.choose(Choice(ids=("twice",)), payload=True)
    assert fleet.store.replay([letter]) == [1]
    wait_for(lambda: fleet.said("fails").count("twice 1") == 2, PATIENCE)
    assert fleet.said("fails").count("twice 0") == 2
    fleet.letters(4)


@slow
@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_keep_failed_tasks(fleet: WorkerGroup, pool: str) -> None:
    fleet.worker("a", "-P", pool, "-c", "2", failed=100)
    fleet.send(failing("once", "at once"), failing("mended", "mended"), message("good"))
    fleet.heard("add", "good")
    assert fleet.letters(1)["once"].reason == "failed"
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)


@slow
def test_failed_tasks_displace_no_dead_letter(fleet: WorkerGroup) -> None:
    fleet.worker("a", failed=2)
    fleet.send(message("bad", body=[1, 2, 3]))
    fleet.letters(1)
    for number in range(3):
        fleet.send(failing(f"n-{number}", "at once"))
        fleet.heard("signal-failure", f"n-{number} ValueError")
        wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert set(fleet.letters(2)) == {"bad", "n-0"}
    assert "failed task shop.fails[n-2] is not kept: there are 2 dead letters" in fleet.log("a")


@slow
@both
def test_a_task_that_fails_while_the_broker_is_away_is_kept_later(fleet: WorkerGroup) -> None:
    carry = fleet.take == "atomic"
    fleet.worker("a", failed=100, carry=carry)
    fleet.send(failing("waits", "waits"))
    fleet.heard("fails", "waits 0")
    with fleet.look.pipeline() as both:
        # The worker can't connect again before the task has failed.
        both.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        both.execute_command("CLIENT PAUSE 5000 ALL")
        both.execute()
    Path(f"{fleet.ledger}.go").touch()
    assert fleet.letters(1)["waits"].reason == "failed"
    # A running task that is not carried over to the next connection runs again. On a slow machine the pause may end
    # that connection, too.
    runs = fleet.said("fails")
    assert set(runs) == {"waits 0"}
    assert len(runs) == 1 if carry else len(runs) > 1
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)


@slow
def test_a_failed_task_that_redis_does_not_store_is_logged(fleet: WorkerGroup) -> None:
    fleet.worker("a", failed=100)
    # A key of another type has the name.
    fleet.look.set(keys.DEAD_LETTERS, "x")
    fleet.send(failing("once", "at once"))
    wait_for(lambda: "can't be kept" in fleet.log("a"), PATIENCE)
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert fleet.said("fails") == ["once 0"]


@slow
def test_failed_tasks_are_acknowledged_if_none_are_kept(fleet: WorkerGroup) -> None:
    fleet.worker("a")
    fleet.send(failing("once", "at once"))
    fleet.heard("signal-failure", "once ValueError")
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert fleet.store.count() == 0


@slow
def test_a_task_that_is_killed_on_purpose_is_not_poison(fleet: WorkerGroup) -> None:
    fleet.worker("a", deaths=1)
    fleet.send(message("endless", "shop.endless", [[], {}, {}]))
    fleet.heard("signal-failure", "endless TimeLimitExceeded")
    fleet.send(message("revoked", "shop.slow", [[3600], {}, {}]))
    fleet.heard("begun", "revoked")
    fleet.control("revoke", "revoked", terminate=True, signal="SIGKILL")
    assert fleet.result("revoked")["status"] == "REVOKED"
    fleet.send(message("good"))
    fleet.heard("add", "good")
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert fleet.store.count() == 0


@slow
def test_a_queue_full_of_unknown_tasks_does_not_end_up_in_memory(fleet: WorkerGroup) -> None:
    fleet.worker("a", unknown_delay=0.5, environment={"MOST_HELD": "10"})
    fleet.send(*(message(f"n-{n}", "shop.none") for n in range(60)), message("known"))
    most = 0

    def through() -> bool:
        nonlocal most
        most = max(most, fleet.unacked())
        return fleet.said("add") == ["known"]

    wait_for(through, PATIENCE)
    # Ten beyond the prefetch, plus the prefetch of two processes.
    assert 10 <= most <= 12
    with fleet.look.pipeline() as pipe:
        pipe.llen("mail")
        pipe.hlen("unacked")
        assert sum(pipe.execute()) >= 60


@slow
def test_a_known_task_loses_the_headers_of_an_unknown_one(fleet: WorkerGroup) -> None:
    fleet.worker("a")
    noted = {keys.UNKNOWN: 3, keys.UNKNOWN_SINCE: 5.0, "mine": 1}
    fleet.send(message("once", "shop.headers", [[], {}, {}], **noted))
    fleet.heard("headers", "once ['mine']")


@slow
def test_two_operators_replay_and_it_runs_once(fleet: WorkerGroup) -> None:
    number = 30
    fleet.worker("old", unknown_delay=0.1, unknown_for=0.1)
    fleet.send(*(message(f"n-{n}", "shop.fresh", [[], {}, {}]) for n in range(number)))
    letters = list(fleet.letters(number, payload=True).values())
    fleet.worker("new", environment={"NEW_RELEASE": "1"}, queues=["bulk"])
    answers: list[list[Any]] = []

    def operator() -> None:
        own = DeadLetterStore(client(fleet.ports["broker"], "operator"))
        answers.append([own.replay([letter])[0] for letter in letters])

    fleet.worker("third", environment={"NEW_RELEASE": "1"})
    threads = [threading.Thread(target=operator) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(pair) for pair in zip(*answers, strict=True)] == [1] * number
    # The old worker may park some of them again at once, because it only waits for a short time.
    wait_for(
        lambda: (
            fleet.store.count() + len(set(fleet.said("fresh"))) == number
            and is_empty(fleet.look, "mail", "unacked")
        ),
        PATIENCE,
    )
    assert len(fleet.said("fresh")) == len(set(fleet.said("fresh")))


@slow
@both
def test_a_drain_puts_back_what_it_holds(fleet: WorkerGroup) -> None:
    worker = fleet.worker("a", unknown_delay=3000.0)
    fleet.send(failing("busy", "waits"))
    fleet.send(*(message(f"n-{n}", "shop.none") for n in range(5)))
    fleet.heard("fails", "busy 0")
    wait_for(lambda: fleet.log("a").count("is not known to this worker") == 5, PATIENCE)
    assert fleet.unacked() == 6
    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: fleet.look.llen("mail") == 5, PATIENCE)
    assert fleet.said("signal-failure") == [], "they went back at once"
    Path(f"{fleet.ledger}.go").touch()
    assert worker.wait(PATIENCE) == 0
    assert fleet.said("signal-failure") == ["busy ValueError"]
    ids = [json.loads(one)["headers"]["id"] for one in fleet.look.lrange("mail", 0, -1)]
    assert sorted(ids) == [f"n-{n}" for n in range(5)]
    assert is_empty(fleet.look, "unacked", "unacked_index")


@slow
@both
def test_a_lost_connection_puts_back_what_it_held(fleet: WorkerGroup) -> None:
    fleet.worker("a", unknown_delay=2.0, unknown_for=600.0)
    fleet.send(*(message(f"n-{n}", "shop.fresh", [[], {}, {}]) for n in range(5)))
    wait_for(lambda: fleet.log("a").count("is not known to this worker") >= 5, PATIENCE)
    for _ in range(3):
        before = fleet.log("a").count("is not known to this worker")
        fleet.look.client_kill_filter(skipme=True, _type="normal")
        wait_for(
            lambda before=before: fleet.log("a").count("is not known to this worker") >= before + 5,
            PATIENCE,
        )
    assert "Connection to broker lost" in fleet.log("a")
    fleet.worker("new", environment={"NEW_RELEASE": "1"})
    fleet.heard("fresh", *(f"n-{n} new@test" for n in range(5)))
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert len(fleet.said("fresh")) == 5


@slow
def test_parking_is_retried_if_redis_refuses_it(fleet: WorkerGroup) -> None:
    worker = fleet.worker("a")
    # A key of another type has the name.
    fleet.look.set(keys.DEAD_LETTERS, "x")
    fleet.send(message("bad", body=[1, 2, 3]), message("good"))
    fleet.heard("add", "good")
    wait_for(lambda: "can't leave unacked now" in fleet.log("a"), PATIENCE)
    # The good one is acknowledged after it was heard.
    wait_for(lambda: fleet.unacked() == 1, PATIENCE)
    fleet.look.delete(keys.DEAD_LETTERS)
    assert set(fleet.letters(1)) == {"bad"}
    assert fleet.unacked() == 0
    assert worker.poll() is None


RAW = {
    b"rubbish": "undecodable",
    b"\xff\xfe\x00": "undecodable",
    b"[1, 2, 3]": "malformed",
    b"null": "malformed",
    b'{"a": 1}': "malformed",
    json.dumps({**message("x"), "headers": [1]}).encode(): "malformed",
    json.dumps({**message("y"), "body": "%%%"}).encode(): "malformed",
    b"[" * 100_000: "undecodable",
}


@slow
def test_items_that_are_no_messages_are_parked(fleet: WorkerGroup) -> None:
    worker = fleet.worker("a")
    fleet.send(*RAW, message("good"))
    fleet.heard("add", "good")
    letters = fleet.letters(len(RAW), payload=True)
    found = {
        (one.message or "").encode(errors="surrogateescape"): one.reason for one in letters.values()
    }
    assert found == RAW
    assert {one.queue for one in letters.values()} == {"mail"}
    assert {"x", "y"} < set(letters)
    wait_for(lambda: is_empty(fleet.look, "unacked", "unacked_index", "mail"), PATIENCE)
    assert is_empty(fleet.look, keys.UNREADABLE)
    assert worker.poll() is None
    # A replay does not change them.
    assert set(fleet.store.replay(list(letters.values()))) == {1}
    fleet.letters(len(RAW))


@slow
@both
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_without_dead_letters_a_worker_drops_them_and_goes_on(
    fleet: WorkerGroup, pool: str
) -> None:
    """This also holds with late acknowledgement, with which each end of the worker would bring the message back."""
    worker = fleet.worker("a", "-P", pool, "-c", "2", profile="inherit", dead_letters=False)
    for raw, _ in BAD.values():
        fleet.send(raw)
    fleet.send(first("old"), message("good"))
    fleet.heard("add", "old", "good")
    assert worker.poll() is None
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    assert "malformed message of task shop.add[four] dropped: its body is not" in fleet.log("a")
    assert "four" in fleet.said("signal-rejected")
    assert set(fleet.said("add")) == {"old", "good"}
    assert fleet.store.count() == 0


@slow
def test_a_worker_that_dies_loses_no_unknown_task(fleet: WorkerGroup) -> None:
    worker = fleet.worker("a", unknown_delay=3000.0)
    fleet.send(*(message(f"n-{n}", "shop.none") for n in range(5)))
    wait_for(lambda: fleet.log("a").count("is not known to this worker") == 5, PATIENCE)
    worker.kill()
    worker.wait()
    kept = [json.loads(one)[0]["headers"]["id"] for one in fleet.look.hvals("unacked")]
    assert sorted(kept) == [f"n-{n}" for n in range(5)]


@slow
@both
def test_a_worker_keeps_no_suspects_that_another_one_could_run(fleet: WorkerGroup) -> None:
    fleet.worker("busy")
    crashed = {keys.CRASHES: keys.SUSPECT}
    fleet.send(*(message(f"s{n}", "shop.slow", [[3600], {}, {}], **crashed) for n in range(3)))
    wait_for(lambda: fleet.look.hlen("unacked") == 3, PATIENCE)
    fleet.worker("free")
    wait_for(lambda: len(fleet.said("begun")) == 2, PATIENCE)
    # Neither runs two of them, although each has a second process.
    assert fleet.log("free").count("Task shop.slow[") == 1
    fleet.send(message("beside"))
    fleet.heard("add", "beside")
    assert len(fleet.said("begun")) == 2


@slow
def test_without_dead_letters_unknown_tasks_are_discarded(fleet: WorkerGroup) -> None:
    fleet.worker("a", dead_letters=False)
    fleet.send(message("lost", "shop.none"), message("bad", body=b"{"), message("good"))
    fleet.heard("add", "good")
    fleet.heard("signal-unknown", "lost shop.none")
    assert "discarded" in fleet.log("a")
    assert fleet.store.count() == 0


@slow
@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_park_messages(fleet: WorkerGroup, pool: str) -> None:
    fleet.worker("a", "-P", pool, "-c", "2", unknown_delay=0.2, unknown_for=0.5)
    fleet.send(message("lost", "shop.none"), message("bad", body=[1, 2, 3]), message("good"))
    fleet.heard("add", "good")
    assert {one.reason for one in fleet.letters(2).values()} == {"unknown", "malformed"}
    fleet.heard("signal-unknown", "lost shop.none")


@pytest.mark.parametrize(
    "payload",
    [
        [[], {}, {}],
        ((), {}, None),
        {"args": [], "task": "shop.add"},
        [[1], {"a": 1}, {"chord": None, "chain": None}],
        [[], {}, {"chain": [{"task": "shop.add", "args": [1]}]}],
    ],
)
def test_a_valid_body_is_accepted(payload: Any) -> None:
    assert misshapen(payload) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"timelimit": [None, None], "shadow": None},
        {"timelimit": [60, 5.5], "shadow": "x", "stamped_headers": ["a"], "stamps": {"a": 1}},
        {"timelimit": None, "stamped_headers": None, "stamps": None},
    ],
)
def test_valid_headers_are_accepted(headers: dict[str, Any]) -> None:
    assert misheaded(headers) is None


def test_the_harness_sends_what_celery_sends() -> None:
    from celery import Celery

    made = Celery("shop", broker="memory://", set_as_current=False).amqp.as_task_v2(
        "7", "shop.add", (1, 2), {}
    )
    assert list(json.loads(base64.b64decode(message("7")["body"]))[:2]) == [[1, 2], {}]
    assert set(message("7")["headers"]) <= set(made.headers)
