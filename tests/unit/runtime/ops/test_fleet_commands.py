from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from celery_fleet.compat import queues as compat_queues
from celery_fleet.delivery.keys import CANARY
from celery_fleet.ops import fleet_commands as command
from celery_fleet.ops.fleet_commands import PauseRequest, ResumeRequest

QUIET = {"state": "paused", "running": 0, "unacked": 0, "held": 0, "polling": False}
BUSY = {**QUIET, "running": 2, "unacked": 1}


class Clock:
    """A clock that only moves while the code sleeps or waits for answers."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(command, "time", made)
    return made


class Fleet:
    """Workers that answer broadcasts; `rounds` are their answers, of which the last one repeats."""

    def __init__(self, clock: Clock, *rounds: dict[str, Any]) -> None:
        self.clock = clock
        self.rounds = list(rounds)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.limits: list[int | None] = []
        self.control = self

    def broadcast(
        self, name: str, arguments: Any, reply: bool, timeout: float, limit: int | None
    ) -> list[dict[str, Any]]:
        assert reply
        self.asked.append((name, arguments))
        self.limits.append(limit)
        replies = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        # The wait only ends early if all expected answers have come.
        self.clock.now += 0.0 if limit is not None and len(replies) >= limit else timeout
        return [{node: answer} for node, answer in replies.items()]


def left() -> float:
    return 1000.0


def test_a_pause_is_renewed_until_nothing_runs(clock: Clock) -> None:
    fleet = Fleet(clock, {"a": BUSY, "b": QUIET}, {"a": BUSY, "b": QUIET}, {"a": QUIET, "b": QUIET})
    answer = command.pause(fleet, PauseRequest(60, 30), left)

    assert answer.errors == []
    assert answer.nodes == {"a": QUIET, "b": QUIET}
    assert fleet.asked == [("fleet_pause", {"seconds": 60})] * 3
    assert fleet.limits == [None, 2, 2]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("running", "a: 1 tasks still run"),
        ("unacked", "a: 1 messages are not acknowledged"),
        ("held", "a: 1 messages could not be handed back yet"),
        ("polling", "a: a last message may still come"),
    ],
)
def test_a_pause_names_workers_that_still_run_tasks_when_the_time_is_over(
    clock: Clock, what: str, text: str
) -> None:
    fleet = Fleet(clock, {"a": {**QUIET, what: 1}})
    answer = command.pause(fleet, PauseRequest(60, 5), left)

    assert answer.errors == [text]
    assert 5 <= clock.now <= 8


def test_a_pause_names_workers_that_can_not_pause_or_do_not_answer(clock: Clock) -> None:
    fleet = Fleet(
        clock,
        {"a": {"state": "unsupported", "why": "its pool has no event loop"}, "c": {"error": "x"}},
    )
    answer = command.pause(fleet, PauseRequest(60, 0, ("a", "b")), left)

    assert answer.errors == [
        "b: no answer; is it running?",
        "a: can't pause, its pool has no event loop",
        "c: x",
    ]


def test_a_pause_stays_within_the_probes_time(clock: Clock) -> None:
    fleet = Fleet(clock, {"a": BUSY})
    command.pause(fleet, PauseRequest(60, 500), lambda: 10.0)
    assert clock.now <= 11


def test_a_resume_waits_for_workers_without_a_connection(clock: Clock) -> None:
    going = {"state": "consuming"}
    fleet = Fleet(clock, {}, {"a": going}, {"a": going, "b": going})
    answer = command.resume(fleet, ResumeRequest(30, ("a", "b")), left)

    assert answer.errors == []
    assert sorted(answer.nodes) == ["a", "b"]
    assert fleet.asked == [("fleet_resume", {})] * 3


def test_a_resume_of_an_unknown_number_of_workers_ends_when_no_more_answer(clock: Clock) -> None:
    going = {"state": "consuming"}
    fleet = Fleet(clock, {}, {"a": going}, {"a": going}, {"a": going, "b": going})
    answer = command.resume(fleet, ResumeRequest(60), left)

    assert sorted(answer.nodes) == ["a", "b"]
    assert clock.now < 20


def test_a_resume_without_an_answer_ends_in_time(clock: Clock) -> None:
    answer = command.resume(Fleet(clock, {}), ResumeRequest(10, ("a",)), left)
    assert answer.errors == ["a: no answer; is it running?"]
    assert clock.now <= 13


class Inspected:
    def __init__(self, stats: dict[str, Any]) -> None:
        self._stats = stats
        self.control = self
        self.asked: list[Any] = []

    def inspect(self, **options: Any) -> Any:
        self.asked.append(options.get("destination"))
        return SimpleNamespace(stats=lambda: self._stats or None)


def stats(**fleet: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"pid": 7, "pool": {"max-concurrency": 4}}
    return {**found, "fleet": fleet} if fleet else found


def test_the_census_is_one_broadcast() -> None:
    answer = {
        **stats(state="paused", queues=["q", "p", "a@h.dq2"]),
        "fleet_last_hour": {"ended": 9},
    }
    app = Inspected({"a@h": answer})

    assert command.census(app) == {
        "a@h": {"queues": ["p", "q"], "processes": 4, "pid": 7, "state": "paused", "ended": 9}
    }
    assert app.asked == [None]


def test_a_worker_that_drains_consumes_nothing() -> None:
    app = Inspected({"a@h": stats(state="draining", queues=["q"])})
    assert command.census(app)["a@h"]["queues"] == []


def test_a_worker_without_the_fleets_loader_has_no_queues_in_a_census() -> None:
    app = Inspected({"b@h": {"pool": "N/A"}})

    assert command.census(app) == {
        "b@h": {
            "queues": [],
            "processes": None,
            "pid": None,
            "state": "consuming",
            "ended": 0,
        },
    }
    assert app.asked == [None]


def test_a_fleet_without_workers_has_an_empty_census() -> None:
    assert command.census(Inspected({})) == {}


class Broker:
    """Lists and sets of Redis, behind a channel."""

    keyprefix_queue = "_kombu.binding.%s"
    keyprefix_binding_permanent = "_kombu.binding_permanent.%s"
    keyprefix_binding_deadlines = "_kombu.binding_deadlines"
    sep = "\x06\x16"

    def __init__(self, alive: tuple[str, ...] = ()) -> None:
        self.lists: dict[str, list[bytes]] = {}
        self.sets: dict[str, set[bytes]] = {}
        self.deadlines = {"C.dq2", "celery.pidbox"}
        self.client = self.default_channel = self.control = self
        self.mailbox = SimpleNamespace(exchange=SimpleNamespace(name="celery.pidbox"))
        self.alive = alive

    @contextmanager
    def connection_for_write(self) -> Any:
        yield self

    def inspect(self, destination: list[str], timeout: float, limit: int) -> Any:
        return SimpleNamespace(ping=lambda: {node: {} for node in self.alive} or None)

    def lrange(self, key: str, *_: int) -> list[bytes]:
        return list(self.lists.get(key, []))

    def lrem(self, key: str, _: int, message: bytes) -> int:
        self.lists[key].remove(message)
        return 1

    def smembers(self, key: str) -> set[bytes]:
        return set(self.sets.get(key, ()))

    def srem(self, key: str, *members: bytes) -> int:
        self.sets[key] -= set(members)
        return len(members)

    def exists(self, key: str) -> bool:
        return bool(self.sets.get(key))

    def zrem(self, _: str, member: str) -> None:
        self.deadlines.discard(member)


def member(key: str, queue: str) -> bytes:
    return Broker.sep.join([key, "", queue]).encode()


def task(name: str) -> bytes:
    return json.dumps({"headers": {"task": name}}).encode()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    direct = {member("old@h", "old@h.dq2"), member("new@h", "new@h.dq2")}
    made.sets = {
        "_kombu.binding.C.dq2": set(direct),
        "_kombu.binding_permanent.C.dq2": set(direct),
        "_kombu.binding.celery.pidbox": {member("", "old@h.celery.pidbox")},
    }
    made.lists = {"old@h.dq2": [task(CANARY), task(CANARY)], "old@h.dq29": [task(CANARY)]}
    monkeypatch.setattr(compat_queues, "priority_keys", lambda _, queue: [queue, f"{queue}9"])
    return made


def test_data_of_a_removed_node_is_deleted(broker: Broker) -> None:
    answer = command.forget(broker, ["old@h"])

    assert answer.errors == []
    assert answer.nodes == {"old@h": {"canaries": 3, "tasks": 0, "bindings": 3}}
    assert not any(broker.lists.values())
    assert broker.sets["_kombu.binding.C.dq2"] == {member("new@h", "new@h.dq2")}
    assert broker.sets["_kombu.binding_permanent.C.dq2"] == {member("new@h", "new@h.dq2")}
    assert broker.sets["_kombu.binding.celery.pidbox"] == set()
    assert broker.deadlines == {"C.dq2"}
    assert command.forget(broker, ["old@h"]).nodes["old@h"]["bindings"] == 0


@pytest.mark.parametrize("other", [task("shop.sum"), b"no JSON", b"[]", b'{"headers": null}'])
def test_tasks_in_a_removed_nodes_queue_are_kept_and_reported(broker: Broker, other: bytes) -> None:
    broker.lists["old@h.dq2"].append(other)
    answer = command.forget(broker, ["old@h"])

    assert answer.nodes == {"old@h": {"canaries": 3, "tasks": 1, "bindings": 0}}
    assert "old@h: 1 task waits in its queue old@h.dq2" in answer.errors[0]
    assert broker.lists["old@h.dq2"] == [other]
    assert len(broker.sets["_kombu.binding.C.dq2"]) == 2


def test_data_of_a_living_node_is_kept(broker: Broker) -> None:
    broker.alive = ("old@h",)
    answer = command.forget(broker, ["old@h"])

    assert answer.nodes == {}
    assert answer.errors == ["old@h: is running, so it is not forgotten"]
    assert len(broker.lists["old@h.dq2"]) == 2
