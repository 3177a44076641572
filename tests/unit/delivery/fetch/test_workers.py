"""Real workers with the atomic fetch and the rights that the roles give them."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.ports import listens
from tests.fleet import Fleet, client, running, wait_for
from tests.unit.delivery.consumers import until

pytestmark = pytest.mark.slow

DELIVERY = {"profile": "at_least_once", "fetch": "atomic"}
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
PRIORITIES = (0, 3, 6, 9)


@contextmanager
def fleet(directory: Path, *more: str, **celery: Any) -> Iterator[Fleet]:
    options = ("-P", "prefork", "-l", "INFO", "-Q", "mail,bulk", "--without-gossip", *more)
    with running(directory, *options, delivery=DELIVERY, celery={**LATE, **celery}) as made:
        wait_for(lambda: "ready." in made.log(), 60)
        yield made


def broker(made: Fleet, user: str = "worker") -> Any:
    return client(made.ports["broker"], user)


def admin(made: Fleet) -> Any:
    return broker(made, "admin")


def messages(made: Fleet) -> list[Any]:
    """Return the messages in the lists, unchanged."""
    redis = broker(made, "operator")
    lists = [
        f"{queue}{end}"
        for queue in ("mail", "bulk")
        for end in ("", *(f"\x06\x16{p}" for p in PRIORITIES[1:]))
    ]
    return [json.loads(item) for name in lists for item in redis.lrange(name, 0, -1)]


def held(made: Fleet) -> dict[str, Any]:
    """Return what unacked has; its index must have the same."""
    redis = broker(made)
    found = {tag: redis.hget("unacked", tag) for tag in redis.zrange("unacked_index", 0, -1)}
    gone = {tag for tag, entry in found.items() if entry is None}
    # It was acknowledged between the two commands.
    assert not gone.intersection(redis.zrange("unacked_index", 0, -1))
    return {tag.decode(): json.loads(entry) for tag, entry in found.items() if tag not in gone}


def number_of(message: Any) -> int:
    from base64 import b64decode

    return int(json.loads(b64decode(message["body"]))[0][0])


def note(app: Any, number: int, seconds: float = 0.0, **options: Any) -> None:
    app.send_task("shop.note", (number, seconds), ignore_result=True, **options)


def settled(made: Fleet, wanted: set[int], seconds: float = 90) -> None:
    wait_for(lambda: set(made.ledger()) == wanted, seconds)
    wait_for(lambda: not held(made), 60)


def kill_connections(made: Fleet) -> None:
    admin(made).execute_command("CLIENT", "KILL", "USER", "worker")


def restart(made: Fleet) -> subprocess.Popen[bytes]:
    """Restart the broker with its data."""
    old = made.processes["broker"]
    old.terminate()
    old.wait(20)
    time.sleep(1)
    assert isinstance(old.args, list)
    fresh = subprocess.Popen([*old.args, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    made.processes["broker"] = fresh
    return fresh


def test_an_idle_worker_is_cheap_and_starts_at_once(tmp_path: Path) -> None:
    with fleet(tmp_path) as made:
        app = made.app()
        chance = random.Random(6)  # noqa: S311  # no secret
        delays: list[float] = []

        def starts_at_once() -> bool:
            delays.clear()
            for queue, priority in itertools.product(("mail", "bulk"), PRIORITIES * 4):
                time.sleep(0.02 + 0.1 * chance.random())
                sent = time.time()
                answer = app.send_task("shop.when", queue=queue, priority=priority)
                delays.append(answer.get(timeout=30, interval=0.002) - sent)
            return statistics.median(delays) < 0.06

        # Without pushes most lists would be noticed after 100 ms and more, in each round. A machine may be busy in one.
        assert any(starts_at_once() for _ in range(5)), delays
        redis = admin(made)
        # The last task is acknowledged after its result is there.
        wait_for(lambda: not held(made))
        redis.config_resetstat()
        begin = time.monotonic()
        time.sleep(10)
        passed = time.monotonic() - begin
        calls = {k: v["calls"] for k, v in redis.info("commandstats").items()}
        calls = {k: v for k, v in calls.items() if "config" not in k and "info" not in k}
        # At the start and end of the window, each of its three timers may make one more call.
        assert sum(calls.values()) <= 2 * passed + 3, calls
        assert made.refused() == []
        assert "delivery at_least_once: atomic fetch with pushes" in made.log()
        assert "stock" not in made.log()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_pools_without_an_event_loop(tmp_path: Path, pool: str) -> None:
    with fleet(tmp_path, "-P", pool) as made:
        app = made.app()
        for number in range(40):
            note(app, number, queue=("mail", "bulk")[number % 2], priority=PRIORITIES[number % 4])
        settled(made, set(range(40)))
        assert sorted(made.ledger()) == list(range(40))
        assert made.refused() == []


def test_lost_connections_lose_nothing(tmp_path: Path) -> None:
    # If the reply of a fetch is lost, unacked has a message that its worker does not know. The lease would find it in
    # seconds. Without a lease, kombu looks every 100 s for messages held longer than the visibility timeout.
    with fleet(tmp_path, broker_transport_options={"visibility_timeout": 15.0}) as made:
        app = made.app()
        sent = 0
        for _ in range(4):
            for _ in range(25):
                note(app, sent, 0.02, queue=("mail", "bulk")[sent % 2])
                sent += 1
            before = len(made.ledger())
            until(lambda before=before: len(made.ledger()) > before, 60)
            kill_connections(made)
        settled(made, set(range(sent)), 240)
        assert made.processes["worker"].poll() is None


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311  # no secret
    with fleet(tmp_path) as made:
        app = made.app()
        number = 200
        for n in range(number):
            note(app, n, 0.05, queue=("mail", "bulk")[n % 2], priority=PRIORITIES[n % 4])
        worker = made.processes["worker"]
        for _ in range(4):
            before = len(made.ledger())
            until(lambda before=before: len(made.ledger()) > before + 3, 60)
            time.sleep(chance.random() * 0.1)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait(10)
            # This also ends its children, so nothing changes any more.
            until(lambda: not broker_clients(made))
            taken = held(made)
            there = {number_of(message) for message in messages(made)}
            there |= {number_of(message) for message, *_ in taken.values()}
            assert there | set(made.ledger()) == set(range(number))
            assert len({tag.rsplit("/", 1)[0] for tag in taken}) >= 1
            worker = made.start(*made.processes["worker"].args[2:])  # type: ignore[index]  # a list, as Fleet.start has it
            made.processes["worker"] = worker
        try:
            # Another test covers the visibility timeout; here it is enough that the messages are held.
            there = {number_of(message) for message, *_ in held(made).values()}
            wait_for(lambda: set(made.ledger()) | there == set(range(number)), 90)
        finally:
            worker.terminate()
            worker.wait(30)


def broker_clients(made: Fleet) -> list[Any]:
    return [one for one in admin(made).client_list() if one["user"] == "worker"]


def test_a_broker_that_restarts_ends_no_worker(tmp_path: Path) -> None:
    """A task is running and the poller is armed; a stock worker would exit with status 1."""
    with fleet(tmp_path) as made:
        admin(made).config_set("appendonly", "yes")
        # Redis does not end earlier.
        state = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        until(lambda: not any(admin(made).info("persistence")[one] for one in state))
        app = made.app()
        note(app, 0, 6.0)
        until(made.ledger, 30)
        fresh = restart(made)
        try:
            wait_for(lambda: listens(made.ports["broker"]) and broker(made, "operator").ping(), 30)
            worker = made.processes["worker"]
            for number in range(1, 20):
                note(app, number)
            settled(made, set(range(20)))
            assert worker.poll() is None
        finally:
            worker.terminate()
            worker.wait(30)
            fresh.terminate()
            fresh.wait(10)


def test_messages_are_fetched_from_a_broker_at_its_memory_limit(tmp_path: Path) -> None:
    with fleet(tmp_path) as made:
        app = made.app()
        for number in range(60):
            note(app, number, 0.05)
        until(made.ledger, 30)
        admin(made).config_set("maxmemory", "1")
        settled(made, set(range(60)))
        assert sorted(made.ledger()) == list(range(60))
        admin(made).config_set("maxmemory", "0")
        note(app, 60)
        settled(made, set(range(61)))


def test_fetching_continues_if_pushes_are_refused(tmp_path: Path) -> None:
    with fleet(tmp_path) as made:
        app = made.app()
        admin(made).execute_command("ACL", "SETUSER", "worker", "-client|tracking")
        kill_connections(made)
        for number in range(8):
            note(app, number, queue=("mail", "bulk")[number % 2], priority=PRIORITIES[number % 4])
            wait_for(lambda number=number: number in made.ledger(), 30)
        assert made.log().count("refuses client tracking") == 1
        assert made.processes["worker"].poll() is None


def test_rubbish_in_a_queue_ends_no_worker(tmp_path: Path) -> None:
    with fleet(tmp_path) as made:
        redis = broker(made, "operator")
        for item in (b"rubbish", b"[1]", b'{"a": 1}', b"\xff"):
            redis.lpush("mail", item)
        note(made.app(), 1)
        settled(made, {1})
        aside = broker(made).rpop("fleet:unreadable", 10)
        assert aside == [b"rubbish", b"[1]", b'{"a": 1}', b"\xff"]
        assert made.refused() == []


def test_a_drain_hands_back_waiting_messages_unchanged(tmp_path: Path) -> None:
    with fleet(tmp_path) as made:
        app = made.app()
        for number in range(30):
            note(app, number, 1.0, priority=PRIORITIES[number % 2])
        before = {number_of(message): message for message in messages(made)}
        until(lambda: len(held(made)) >= 8, 30)
        worker = made.processes["worker"]
        worker.terminate()
        worker.wait(60)
        assert worker.returncode == 0
        assert held(made) == {}
        left = messages(made)
        assert sorted(number_of(message) for message in left) == sorted(
            set(range(30)) - set(made.ledger())
        )
        for message in left:
            sent = before.get(number_of(message))
            if sent is not None:
                assert message["properties"]["delivery_tag"] == sent["properties"]["delivery_tag"]
        assert not any("w@test/" in message["properties"]["delivery_tag"] for message in left)
        high = [number_of(m) for m in reversed(left) if m["properties"]["priority"] == 0]
        assert high == sorted(high)
