"""The decisions of each minor's adapter. tests/unit/celeries runs them with real workers."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from celery import Celery, beat
from celery.app import trace
from celery.backends.redis import RedisBackend
from celery.concurrency.gevent import Timer as GreenTimer
from celery.exceptions import WorkerLostError
from celery.schedules import schedule
from celery.worker import state
from celery.worker.request import Request as CelerysRequest
from kombu.asynchronous.timer import Timer
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_fleet.compat import versions
from celery_fleet.compat.minors import celery54, celery55, celery56, celery57
from celery_fleet.compat.minors import chosen as minors
from scripts.ports import free_port


@pytest.mark.parametrize(
    ("found", "minor"),
    [
        ("5.7.3", "5.7"),
        ("5.6", "5.6"),
        ("5.4.0rc1", "5.4"),
        # Such versions are refused earlier, with a message.
        ("5.10.0", "5.7"),
        ("6.0", "5.7"),
        ("5.3.6", "5.4"),
        (None, "5.4"),
    ],
)
def test_a_version_selects_its_module(found: str | None, minor: str) -> None:
    assert minors.nearest(found, versions.CELERY) == minor


@pytest.mark.parametrize(
    ("package", "known"), [("celery", versions.CELERY), ("kombu", versions.KOMBU)]
)
def test_each_minor_defines_the_same_names(package: str, known: tuple[str, ...]) -> None:
    newest = import_module(f"celery_fleet.compat.minors.{package}57")
    public = {name for name in vars(newest) if not name.startswith("_")}
    for minor in known:
        module = import_module(f"celery_fleet.compat.minors.{package}{minor.replace('.', '')}")
        assert public <= set(vars(module)), minor


class Request:
    """A request whose process died; it records what happens to it."""

    def __init__(self, wanted: bool | None, retries: int = 0, sends: bool = True) -> None:
        self.done: list[Any] = []
        self.id, self.task_name, self.args, self.kwargs = "i", "shop.x", (), {}
        self.ignore_result, self.store_errors, self.acknowledged = True, False, False
        self._context = SimpleNamespace(retries=retries)
        self.task = SimpleNamespace(
            app=SimpleNamespace(conf={"task_retry_on_worker_lost": wanted}),
            backend=None,
            acks_late=True,
            max_retries=3,
            default_retry_delay=180,
            request_stack=SimpleNamespace(push=lambda _: None, pop=lambda: None),
            on_retry=lambda *_: self.done.append("told"),
            signature_from_request=self.signature,
        )
        self.sends = sends

    def signature(self, _context: Any, **options: Any) -> Any:
        def apply_async() -> None:
            if not self.sends:
                raise OSError("away")
            self.done.append(options)

        return SimpleNamespace(apply_async=apply_async)

    def acknowledge(self) -> None:
        self.done.append("acknowledged")

    def reject(self, requeue: bool) -> None:
        self.done.append(f"rejected {requeue}")

    def send_event(self, kind: str, **_: Any) -> None:
        self.done.append(kind)


def retried(request: Any) -> bool:
    return celery56.retry_lost(request, RuntimeError("died"), SimpleNamespace(traceback=None))


def test_a_task_whose_process_died_is_sent_again_before_it_is_acknowledged() -> None:
    request = Request(wanted=True, retries=1)
    assert retried(request)
    assert request.done == [
        {"countdown": 180, "retries": 2},
        "acknowledged",
        "task-retried",
        "told",
    ]


@pytest.mark.parametrize(
    "request_", [Request(wanted=None), Request(False), Request(True, retries=3)]
)
def test_celery_behaves_as_usual_if_no_retry_is_wanted_or_left(request_: Request) -> None:
    assert not retried(request_)
    assert request_.done == []


def test_a_task_that_cannot_be_sent_again_goes_back_to_its_queue() -> None:
    request = Request(wanted=True, sends=False)
    assert retried(request)
    assert request.done == ["rejected True"]
    # If it was acknowledged already, there is no message any more.
    request = Request(wanted=True, sends=False)
    request.acknowledged = True
    assert not retried(request)
    assert request.done == []


def test_a_task_that_was_sent_again_is_acknowledged_even_if_its_state_can_not_be_stored() -> None:
    def mark_as_retry(*_: Any, **__: Any) -> None:
        raise OSError("away")

    request = Request(wanted=True)
    request.store_errors = True
    request.task.backend = SimpleNamespace(
        mark_as_retry=mark_as_retry,
        as_uri=lambda: "redis://",
        _get_task_meta_for=lambda _: {"status": "STARTED"},
    )
    request.ignore_result = False
    with pytest.raises(OSError, match="away"):
        retried(request)
    assert request.done == [{"countdown": 180, "retries": 1}, "acknowledged"]


def test_a_tasks_own_option_overrides_the_setting() -> None:
    request = Request(wanted=True)
    request.task.retry_on_worker_lost = False
    assert not retried(request)


def test_celery_5_4_only_retries_after_connection_errors() -> None:
    safe = celery54.safe_to_retry(SimpleNamespace(connection_errors=(ConnectionError,)))
    assert safe(ConnectionError())
    assert not safe(ValueError())


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (SystemExit(), "exitcode 0"),
        (SystemExit(3), "exitcode 3"),
        (SystemExit("no such file"), "exitcode 1"),
        (SystemExit(-9), "signal 9 (SIGKILL)"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_announced_exit_is_reported_as_with_celery_5_7(exc: BaseException, status: str) -> None:
    lost = celery56.worker_lost(None, exc).exc
    newest = CelerysRequest._worker_lost_info(object.__new__(CelerysRequest), exc).exception.exc
    assert str(lost) == str(newest) == f"Worker exited prematurely: {status}."
    info = SimpleNamespace(type=type(exc), exception=exc)
    celery56.report_lost(info, lost)
    assert (info.type, info.exception) == (WorkerLostError, lost)


@pytest.mark.parametrize("minor", [celery54, celery55, celery56, celery57])
def test_an_error_that_is_no_exception_is_stored_under_its_name(minor: Any) -> None:
    app = Celery("shop", set_as_current=False)
    error = minor.storable(asyncio.CancelledError("the server went away"))
    assert minor is celery57 or isinstance(error, Exception), "it would not be stored"
    stored = app.backend.prepare_exception(error, "json")
    found = app.backend.exception_to_python(stored)
    assert type(found) is asyncio.CancelledError
    assert found.args == ("the server went away",)


def request_with_eta(timer: Any, call: Callable[[Any], object], seconds: float = 60.0) -> Any:
    made = CelerysRequest.__new__(CelerysRequest)
    timer.call_after(seconds, call, (made,))
    return made


def taken(timer: Any) -> list[Any]:
    return celery56.take_scheduled(SimpleNamespace(timer=timer), set())


def test_a_greenlet_whose_request_was_taken_does_not_run() -> None:
    timer = GreenTimer()
    ran: list[Any] = []
    request = request_with_eta(timer, ran.append, 0.05)
    assert taken(timer) == [request]
    assert taken(timer) == []
    gevent.sleep(0.2)
    assert ran == []


def test_a_greenlet_that_has_begun_goes_on() -> None:
    """It waits for a slot of the pool, which has its request."""
    timer = GreenTimer()
    ran: list[Any] = []

    def run(request: Any) -> None:
        gevent.sleep(0.1)
        ran.append(request)

    request = request_with_eta(timer, run, 0.0)
    gevent.sleep(0.05)
    assert taken(timer) == []
    gevent.sleep(0.2)
    assert ran == [request]


class Pool:
    """The part of prefork's pool that has time limits."""

    def limit(self) -> None:
        """Stop a task."""


@pytest.mark.parametrize("minor", [celery55, celery56])
def test_a_cleared_timer_keeps_time_limits_and_gives_up_its_requests(minor: Any) -> None:
    timer, pool = Timer(), Pool()
    consumer = SimpleNamespace(
        hub=SimpleNamespace(timer=timer), timer=timer, pool=SimpleNamespace(_pool=pool)
    )
    for _ in range(3):
        minor.keep_time_limits(consumer)
        repeated = timer.call_repeatedly(10.0, pool.limit)
        limit = timer.call_after(60.0, pool.limit)
        requests = [request_with_eta(timer, print) for _ in range(2)]
        timer.clear()
        assert (repeated.canceled, limit.canceled) == (True, False)
        assert minor.take_scheduled(consumer, set()) == requests
        assert minor.take_scheduled(consumer, set()) == []

    request_with_eta(timer, print)
    timer.clear()
    request_with_eta(timer, print)
    minor.forget_timers(consumer)  # kombu has put back their messages
    assert minor.take_scheduled(consumer, set()) == []


@pytest.mark.parametrize("minor", [celery55, celery56, celery57])
@pytest.mark.parametrize("cleared", [False, True])
def test_the_timer_keeps_no_message_of_a_request_that_was_taken(minor: Any, cleared: bool) -> None:
    """Otherwise each pause and each lost connection would keep all of them until their ETA."""
    timer = Timer()
    consumer = SimpleNamespace(
        hub=SimpleNamespace(timer=timer), timer=timer, pool=SimpleNamespace(_pool=Pool())
    )
    minor.keep_time_limits(consumer)
    request = request_with_eta(timer, print)
    request._eta_timer_entry = timer.queue[0].entry
    request.id = "i"
    state.task_scheduled(request)
    if cleared and minor is not celery57:  # Celery 5.7 does not clear the timer
        timer.clear()
    assert minor.take_scheduled(consumer, set()) == [request]
    state.task_ready(request)
    assert len(timer) == 1
    there = weakref.ref(request)
    del request
    assert there() is None


def test_celery_5_5_cancels_a_connections_timers_if_it_does_not_close_as_usual() -> None:
    timer, pool = Timer(), Pool()
    consumer = SimpleNamespace(
        hub=SimpleNamespace(timer=timer), timer=timer, pool=SimpleNamespace(_pool=pool)
    )
    celery55.keep_time_limits(consumer)
    entries = [timer.call_repeatedly(10.0, print), timer.call_after(60.0, pool.limit)]
    celery55.forget_timers(consumer)
    assert [entry.canceled for entry in entries] == [True, False]
    celery55.forget_timers(SimpleNamespace(hub=None, timer=GreenTimer()))


def test_a_chord_stays_if_the_sending_of_its_body_was_cut_off() -> None:
    app = Celery("shop", set_as_current=False)
    backend = RedisBackend(app=app, url=f"redis://127.0.0.1:{free_port()}/0")
    cut_off: list[bool] = []

    def count() -> Any:
        with backend.client.pipeline() as pipe:
            return pipe.delete("chord").execute()

    backend.on_chord_part_return = count
    celery56.keep_chord(backend, lambda: bool(cut_off))
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            backend.on_chord_part_return()
    cut_off.append(True)
    assert backend.on_chord_part_return() == []
    celery56.keep_chord(SimpleNamespace(), bool)  # a backend that is not Redis has no such chords


def test_the_tracer_of_celery_5_5_raises_what_puts_a_task_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(trace, "_signal_internal_error", lambda *about: reported.append(about[-1]))
    celery55.raise_from_tracer(KeyError)
    error, put_back = ValueError(), KeyError()
    trace._signal_internal_error(None, "i", (), {}, {}, error)
    with pytest.raises(KeyError):
        trace._signal_internal_error(None, "i", (), {}, {}, put_back)
    assert reported == [error]


def test_older_celery_fills_the_heap_that_the_scheduler_has_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """django_celery_beat replaces it by an empty one when it reads a schedule that has changed."""
    for name in ("is_due", "populate_heap"):
        monkeypatch.setattr(beat.Scheduler, name, getattr(beat.Scheduler, name))
    celery56.keep_ticking()

    class Reloading(beat.Scheduler):
        @property
        def schedule(self) -> dict[str, Any]:
            self._heap = []
            return {"hourly": beat.ScheduleEntry("hourly", "t", schedule=schedule(3600), app=app)}

    app = Celery("shop", broker="memory://", set_as_current=False)
    scheduler = Reloading(app, lazy=True)
    scheduler.populate_heap()

    assert [event.entry.name for event in scheduler._heap] == ["hourly"]
