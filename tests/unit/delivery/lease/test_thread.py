from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_fleet.delivery import hooks, tags
from celery_fleet.delivery.lease import sweep, sweep_scripts
from celery_fleet.delivery.lease import thread as lease_thread
from celery_fleet.delivery.lease.renewal import RENEW, Lease
from celery_fleet.delivery.lease.sweep import Broker, Sweep
from celery_fleet.delivery.lease.thread import LeaseThread
from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.scripts import Script

OWN = Owner("here@test")


class Case:
    """A lease thread with a fake broker and a clock that the test moves."""

    def __init__(self, seconds: float = 300) -> None:
        self.now = 1000.0
        self.held = ["a"]
        self.there = True
        self.connected = True
        self.times = 1
        self.trouble: Exception | None = None
        self.calls: list[tuple[float, Script, Sequence[Any]]] = []
        self.thread = LeaseThread(
            Lease(lambda: self.held, seconds, clock=lambda: self.now),
            Sweep(OWN, lambda: self.held, seconds, seconds, clock=lambda: self.now),
            self,
            clock=lambda: self.now,
        )

    def broker(self) -> Broker | None:
        broker = Broker(self._run, lambda *_: [], "index", "unacked", lambda *_: ["mail"])
        return broker if self.there else None

    def _run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.calls.append((self.now, script, args))
        if self.trouble is not None:
            raise self.trouble
        return None if script is RENEW else [0, 0, [], [], self.now]

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += max(0.05, min(self.thread.step(), end - self.now))

    def count(self, script: Script) -> int:
        return sum(called is script for _, called, _ in self.calls)


@pytest.fixture
def case() -> Case:
    return Case()


def test_renewals_and_sweeps_happen_when_they_are_due(case: Case) -> None:
    case.pass_time(1000)
    assert case.count(RENEW) == 200
    assert 1000 / 6 <= case.count(sweep_scripts.LOOK) <= 1000 / 4
    assert case.calls[0][:2] == (1000.0, RENEW)


def test_an_idle_worker_sends_one_command_in_several_seconds(case: Case) -> None:
    case.held = []
    case.pass_time(1000)
    assert case.count(RENEW) == 0
    assert len(case.calls) <= 0.3 * 1000


def test_it_waits_for_the_first_connection(case: Case) -> None:
    case.there = False
    assert 0 <= case.thread.step() <= lease_thread.EVERY
    assert case.calls == []


def test_after_its_first_connection_the_others_may_renew_before_it_sweeps(case: Case) -> None:
    case.there = False
    case.pass_time(290)
    case.there = True
    back = case.now
    case.pass_time(60)
    looks = [when for when, script, _ in case.calls if script is sweep_scripts.LOOK]
    assert (
        lease_thread.PATIENCE - lease_thread.RETRY <= looks[0] - back <= 2 * lease_thread.PATIENCE
    )


def test_the_lease_continues_without_a_connection_of_the_worker(case: Case) -> None:
    case.connected = False
    case.pass_time(300)
    assert case.count(RENEW) == 60
    assert case.count(sweep_scripts.LOOK) == 0


def test_it_is_suspicious_for_a_while_after_each_connection(case: Case) -> None:
    def ages(seconds: float) -> set[float]:
        case.calls.clear()
        case.pass_time(seconds)
        return {args[6] for _, script, args in case.calls if script is sweep_scripts.LOOK}

    assert ages(lease_thread.SUSPICIOUS - 1) == {sweep.UNKNOWN_AGE}
    case.pass_time(10)
    assert ages(600) == {sweep.UNKNOWN_AGE + 100}
    case.times = 2
    case.pass_time(10)
    assert ages(lease_thread.SUSPICIOUS - 20) == {sweep.UNKNOWN_AGE}


def test_an_error_is_logged_once_and_retried_soon(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        case.pass_time(100)
        case.trouble = RedisTimeoutError("redis://worker:s3cr3t@redis1 timed out")
        case.pass_time(60)
        assert case.count(RENEW) >= 25
        for _ in range(
            100
        ):  # in most of these steps nothing is due, so they say nothing about the broker
            case.thread.step()
            case.now += 0.1
        case.trouble = None
        case.pass_time(5)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the lease can't be renewed now and is tried again",
        "the broker answers the lease again",
    ]
    assert "s3cr3t" not in caplog.text


def test_after_an_outage_the_others_may_renew_before_it_sweeps(case: Case) -> None:
    case.pass_time(100)
    case.trouble = RedisTimeoutError()
    case.pass_time(600)
    case.trouble = None
    case.calls.clear()
    back = case.now
    case.pass_time(60)
    looks = [when for when, script, _ in case.calls if script is sweep_scripts.LOOK]
    renewals = [when for when, script, _ in case.calls if script is RENEW]
    # The last failed attempt was up to two seconds ago.
    assert renewals[0] - back <= lease_thread.RETRY
    assert looks[0] - back >= lease_thread.PATIENCE - lease_thread.RETRY


def test_after_an_outage_between_two_renewals_the_others_may_renew_before_it_sweeps(
    case: Case,
) -> None:
    """With a lease of 15 s, an outage of 13 s that this thread missed made running tasks look abandoned."""
    case.pass_time(100)
    case.calls.clear()
    back = case.now
    case.times = 2
    case.pass_time(60)
    looks = [when for when, script, _ in case.calls if script is sweep_scripts.LOOK]
    assert lease_thread.PATIENCE <= looks[0] - back <= 2 * lease_thread.PATIENCE


@pytest.mark.parametrize("connected", [True, False])
def test_an_idle_worker_notices_that_redis_refuses_writes(case: Case, connected: bool) -> None:
    """Without a connection it does not sweep, and its first sweep afterwards must leave time to the others as well."""
    case.held = []
    case.pass_time(100)
    case.connected = connected
    case.trouble = ResponseError("MISCONF Redis can't write")
    case.pass_time(30)
    case.connected = True
    case.trouble = None
    case.calls.clear()
    back = case.now
    case.pass_time(60)
    looks = [when for when, script, _ in case.calls if script is sweep_scripts.LOOK]
    assert looks[0] - back >= lease_thread.PATIENCE - lease_thread.RETRY


def test_after_a_pause_of_its_own_process_the_others_may_renew_before_it_sweeps(case: Case) -> None:
    case.pass_time(100)
    case.now += 400
    case.calls.clear()
    back = case.now
    case.pass_time(60)
    assert case.calls[0][:2] == (back, RENEW)
    assert min(when for when, script, _ in case.calls if script is sweep_scripts.LOOK) >= (
        back + lease_thread.PATIENCE
    )


def test_the_rest_of_a_limited_sweep_follows_at_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter([True, True, False])
    monkeypatch.setattr(case.thread.sweep, "round", lambda *_: next(rounds))
    case.thread.step()
    case.now += lease_thread.PATIENCE
    assert case.thread.step() == 0
    assert case.thread.step() == 0
    assert case.thread.step() > 1


def test_the_thread_survives_and_ends(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    stepped = threading.Event()

    def step() -> float:
        stepped.set()
        raise ValueError("our own mistake")

    case.thread.step = step  # type: ignore[method-assign]  # a stand-in
    case.thread.start()
    case.thread.start()
    assert stepped.wait(30)
    case.thread.stop()
    assert "our own mistake" in caplog.text


@pytest.fixture
def unhooked() -> Iterator[None]:
    before = hooks.HOOKS.sweep
    yield
    hooks.HOOKS.sweep = before
    signals.worker_shutdown.disconnect(dispatch_uid="celery_fleet.lease")


@pytest.mark.usefixtures("unhooked")
def test_the_step_is_only_added_if_the_lease_is_on() -> None:
    app = Celery("shop", set_as_current=False)
    lease_thread.install(app, Options(fetch="atomic"))
    lease_thread.install(app, Options())
    assert app.steps["worker"] == set()
    assert hooks.HOOKS.sweep is None

    lease_thread.install(app, Options(fetch="atomic", lease=True))
    assert [step.__name__ for step in app.steps["worker"]] == ["Keep"]
    assert hooks.HOOKS.sweep is not None


@pytest.mark.usefixtures("unhooked")
def test_the_watchdog_ends_and_resumes_the_lease() -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 30}
    tags.begin("here@test")
    verdict = lease_thread.install(app, Options(fetch="atomic", lease=True))
    verdict(False)  # no worker yet: nothing to end
    (step,) = app.steps["worker"]
    made: list[LeaseThread] = []
    before = lease_thread.make
    try:
        lease_thread.make = lambda *args: made.append(before(*args)) or made[0]  # type: ignore[func-returns-value]  # counted in passing
        step.start(SimpleNamespace(), SimpleNamespace(app=app, consumer=None))
    finally:
        lease_thread.make = before
    assert made[0].lease.seconds == 30
    verdict(False)
    assert made[0].lease.ended
    verdict(True)
    assert not made[0].lease.ended
    signals.worker_shutdown.send(sender=None)
    assert made[0]._stop.is_set()
