"""Applications make entries with ever new names, for one run each. Beat and the broker forget them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from celery.beat import Scheduler, Service
from celery.schedules import schedule
from redbeat import RedBeatScheduler, RedBeatSchedulerEntry

from celery_fleet.beat import loaded, standby, steps
from celery_fleet.beat.leadership import Leadership
from celery_fleet.beat.metrics import BeatMetrics
from celery_fleet.compat import redbeat
from celery_fleet.compat.beat import stock
from celery_fleet.delivery.keys import BEAT_LEADER, BEAT_SENT
from celery_fleet.supervision.notify import Notifier
from tests.support.redis_server import Server, redis_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [time.monotonic()]
    monkeypatch.setattr(standby.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def lead(
    server: Server, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Any], Any]]:
    """Let a beat become the leader, without its loop; the function gets the scheduler's class."""
    current = _state._tls.current_app
    monkeypatch.setattr(stock.Channel, "_put", stock.Channel._put)
    write = RedBeatScheduler.setup_schedule
    monkeypatch.setattr(RedBeatScheduler, "write_declared", write, raising=False)
    monkeypatch.setenv(loaded.DIRECTORY_VARIABLE, str(tmp_path))

    def led(scheduler: Any) -> Any:
        app: Any = Celery("shop", set_as_current=False, broker=server.url, fixups=[])
        app.conf.update(redbeat.settings(server.url))
        app.conf.update(result_backend="disabled://", result_expires=None)
        app.conf.beat_schedule = {"stays": {"task": "t", "schedule": schedule(36000)}}
        app.set_current()
        redbeat.connect(app)
        service = Service(app, scheduler_cls=scheduler)
        leader = Leadership(server.client, "one")
        assert leader.take()
        standby.take_over(app, service, leader, {})
        steps.watch_service(
            app, service, Notifier("@x"), metrics=str(tmp_path / "beat.json"), standby=True
        )
        return service

    yield led
    _state._set_current_app(current)


def stores(function: Any, seen: set[int] | None = None) -> list[Any]:
    """Return the dicts, sets and lists that a function and those that it calls keep between two calls."""
    seen = set() if seen is None else seen
    found = []
    for cell in getattr(function, "__closure__", None) or ():
        one = cell.cell_contents
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict | set | list):
            found.append(one)
        elif isinstance(one, BeatMetrics):
            found += [kept for kept in vars(one).values() if isinstance(kept, dict | set)]
        else:
            found += stores(one, seen)
    return found


def test_beat_keeps_nothing_about_entries_that_are_gone(
    server: Server, now: list[float], lead: Any
) -> None:
    service = lead(RedBeatScheduler)
    for number in range(50):
        entry = RedBeatSchedulerEntry(f"once {number}", "t", schedule(3600), app=service.app)
        entry.save().reschedule(entry.last_run_at - timedelta(hours=2))
        now[0] += 2
        service.scheduler.tick()
        entry.delete()
    now[0] += 2
    service.scheduler.tick()
    assert server.client.llen("celery") == 50
    kept = [
        one
        for name in ("tick", "reserve", "apply_async")
        for one in stores(getattr(service.scheduler, name))
    ]
    # Among them are those of `hold_runs`, `send_by`, the routes and the counters.
    assert len(kept) >= 6
    assert [one for one in kept if "once" in repr(one)] == []


def hours_ago(hours: float) -> bytes:
    return f"{time.time() - hours * 3600:.6f}\0".encode()


@pytest.mark.parametrize("scheduler", [Scheduler, RedBeatScheduler])
def test_the_broker_forgets_entries_that_are_gone_without_a_new_leader(
    server: Server, now: list[float], lead: Any, scheduler: Any
) -> None:
    service = lead(scheduler)
    service.scheduler.tick()
    for name, hours in (("stays", 2), ("gone", 2), ("just ran", 0.5)):
        server.client.hset(BEAT_SENT, name, hours_ago(hours))
    service.scheduler.tick()
    assert server.client.hlen(BEAT_SENT) == 3
    now[0] += standby.KEPT + 1  # more than any error of rounding
    service.scheduler.tick()
    assert set(server.client.hgetall(BEAT_SENT)) == {b"stays", b"just ran"}


def test_an_entry_that_is_switched_off_is_not_forgotten(
    server: Server, now: list[float], lead: Any
) -> None:
    service = lead(RedBeatScheduler)
    entry = RedBeatSchedulerEntry("off", "t", schedule(3600), enabled=False, app=service.app)
    entry.save()
    server.client.hset(BEAT_SENT, "off", hours_ago(2))
    now[0] += standby.KEPT + 1  # more than any error of rounding
    service.scheduler.tick()
    assert server.client.hlen(BEAT_SENT) == 1
    server.client.delete(BEAT_LEADER)
    lead(RedBeatScheduler)
    assert server.client.hlen(BEAT_SENT) == 1


def test_an_entry_whose_send_was_interrupted_is_not_forgotten(
    server: Server, now: list[float], lead: Any
) -> None:
    service = lead(Scheduler)

    def interrupted(*_: Any, **__: Any) -> None:
        raise SystemExit

    service.scheduler.apply_async = interrupted
    service.scheduler.schedule["stays"].last_run_at -= timedelta(days=1)
    server.client.hset(BEAT_SENT, "stays", hours_ago(24))
    now[0] += standby.KEPT + 1  # more than any error of rounding
    with pytest.raises(SystemExit):
        service.scheduler.tick()
    assert server.client.hlen(BEAT_SENT) == 1


def test_only_the_leader_forgets(server: Server) -> None:
    one, two = (Leadership(server.client, token) for token in ("one", "two"))
    assert one.take()
    one.note({"e": 1.5, "f": 1.5})
    two.forget(["e", "f"])
    assert set(one.sent()) == {"e", "f"}
    one.forget(["e"])
    assert set(one.sent()) == {"f"}
