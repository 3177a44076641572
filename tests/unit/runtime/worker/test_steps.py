from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, bootsteps, signals
from celery.worker import state as worker_state
from celery.worker.control import Panel

from celery_fleet.common.pauses import Pause
from celery_fleet.common.pool_sizes import PoolSize
from celery_fleet.compat import broker
from celery_fleet.compat import worker as compat_worker
from celery_fleet.compat.worker import WorkerView
from celery_fleet.supervision.notify import Notifier
from celery_fleet.supervision.watch import State
from celery_fleet.worker import steps as worker
from celery_fleet.worker.drainer import DrainStatus, Mode

VIEW = WorkerView(
    draining=False,
    connected=True,
    solo=False,
    running=0,
    queues=("discounts",),
    full=False,
    poll_age=0.5,
    poll_limit=11.0,
)


@pytest.mark.parametrize(
    ("changes", "ready", "tick", "state", "text"),
    [
        ({}, True, 0.1, State.WORKING, "consuming discounts"),
        ({}, False, 0.1, State.STARTING, "preparing to consume"),
        ({"connected": False}, False, 0.1, State.STARTING, "connecting to the broker"),
        ({"connected": False}, True, 60, State.WAITING, "connecting to the broker"),
        ({"draining": True, "running": 1}, True, 99, State.DRAINING, "draining: 1 task running"),
        ({"draining": True}, True, 0, State.DRAINING, "stopping"),
        ({"draining": True, "running": 3}, True, 0, State.DRAINING, "draining: 3 tasks running"),
        (
            {"full": True, "running": 4, "poll_age": 900},
            True,
            0.1,
            State.WORKING,
            "consuming discounts; full, 4 tasks running",
        ),
        ({"full": True}, True, 8, State.STUCK, "stuck: the event loop does not run"),
        ({"solo": True, "running": 1}, True, 999, State.WORKING, "running 1 task"),
        ({"solo": True}, True, 9, State.STUCK, "stuck: the event loop does not run"),
        (
            {"poll_age": 12.0},
            True,
            0.1,
            State.STUCK,
            "stuck: the worker does not poll its queues",
        ),
        (
            {"poll_age": None},
            True,
            0.1,
            State.STUCK,
            "stuck: the worker does not poll its queues",
        ),
        (
            {"queues": (), "poll_age": None},
            True,
            0.1,
            State.WORKING,
            "consuming from no queue: all were cancelled",
        ),
        # With another transport than Redis, only the loop can be checked.
        ({"poll_age": None, "poll_limit": None}, True, 0.1, State.WORKING, "consuming discounts"),
    ],
)
def test_the_state_of_a_worker(
    changes: dict[str, Any], ready: bool, tick: float, state: State, text: str
) -> None:
    look = worker.observe(replace(VIEW, **changes), ready, tick)

    assert (look.state, look.text) == (state, text)


DRAINING = DrainStatus(Mode.DRAINING, running=3, handed_back=16)
PAUSED = DrainStatus(Mode.PAUSED, seconds=20.2, running=1)


@pytest.mark.parametrize(
    ("status", "changes", "tick", "state", "text"),
    [
        (DRAINING, {}, 0.1, State.DRAINING, "draining: 3 tasks running, 16 handed back"),
        (
            replace(DRAINING, handed_back=0, held=16),
            {"poll_age": 99.0},
            99,
            State.DRAINING,
            "draining: 3 tasks running, 0 handed back, 16 wait for the broker to take them back",
        ),
        (
            DRAINING,
            {"connected": False, "running": 1},
            60,
            State.DRAINING,
            "draining: 1 task running, 16 handed back",
        ),
        (
            replace(DRAINING, running=0),
            {},
            0.1,
            State.DRAINING,
            "draining: 0 tasks running, 16 handed back",
        ),
        (
            replace(DRAINING, running=0),
            {"draining": True},
            0.1,
            State.DRAINING,
            "stopping, 16 handed back",
        ),
        (PAUSED, {"poll_age": 99.0}, 0.1, State.WORKING, "paused by the fleet for 20 s more"),
        (PAUSED, {}, 9, State.STUCK, "stuck: the event loop does not run"),
        (PAUSED, {"connected": False}, 60, State.WAITING, "connecting to the broker"),
        (PAUSED, {"draining": True}, 0.1, State.DRAINING, "stopping"),
    ],
)
def test_the_state_of_a_worker_that_the_fleet_has_paused(
    status: DrainStatus, changes: dict[str, Any], tick: float, state: State, text: str
) -> None:
    look = worker.observe(replace(VIEW, **changes), True, tick, status)

    assert (look.state, look.text) == (state, text)


@pytest.mark.parametrize("ready", [True, False])
def test_attempts_to_connect_are_counted(ready: bool) -> None:
    view = replace(VIEW, connected=False, restarts=3)

    assert worker.observe(view, ready, 0.1).attempts == 3


def test_the_status_says_that_an_operator_has_scaled_the_worker() -> None:
    """The plan finds it there; see `scale_notes` in plugins/plugin_utils/run/plan.py."""
    size = PoolSize("d@h1", 6, "4", 0.0, "ana", "a backlog").words
    view = replace(VIEW, queues=("discounts", "bulk"))
    paused = {"bulk": Pause("queue:bulk", 0.0, "bo", "")}

    look = worker.observe(view, True, 0.1, paused=paused, scaled=size)

    assert look.text == f"consuming discounts; {size}; paused bulk by bo"


def test_the_direct_queue_is_not_shown() -> None:
    view = replace(VIEW, queues=("discounts", "d@h1.dq2"))

    assert worker.own_queues(view, "d@h1").queues == ("discounts",)
    assert worker.own_queues(replace(VIEW, queues=("d@h1.dq2",)), "d@h1").queues == ("d@h1.dq2",)


def fake_worker(**channel: Any) -> Any:
    """Return the parts of a worker that the adapter reads."""
    made = SimpleNamespace(
        connection=object(),
        closed=False,
        _qos=SimpleNamespace(can_consume=lambda: True),
        brpop_timeout=1,
        health_check_interval=5,
        _brpop_sent_at=None,
    )
    vars(made).update(channel)
    queues = [SimpleNamespace(name="discounts")]
    consumer = SimpleNamespace(
        connection=object(),
        restart_count=7,
        blueprint=SimpleNamespace(state=bootsteps.RUN),
        task_consumer=SimpleNamespace(channel=made, queues=queues),
    )
    blueprint = SimpleNamespace(state=bootsteps.RUN)
    return SimpleNamespace(consumer=consumer, blueprint=blueprint, pool_cls=object, pool=None)


def test_a_workers_state_is_read_from_its_consumer() -> None:
    view = compat_worker.view_worker(fake_worker(_brpop_sent_at=0.0))

    assert view.connected
    assert view.queues == ("discounts",)
    assert view.poll_age is not None
    assert view.poll_age > 0
    assert view.poll_limit == 11
    assert view.restarts == 7


@pytest.mark.parametrize("channel", [{"closed": True}, {"connection": None}])
def test_a_closed_channel_is_a_lost_connection(channel: dict[str, Any]) -> None:
    assert not compat_worker.view_worker(fake_worker(**channel)).connected


def test_a_worker_that_is_being_built_is_not_connected() -> None:
    assert not compat_worker.view_worker(SimpleNamespace(pool_cls=object)).connected


@pytest.mark.parametrize("value", [0, 1, True])
def test_a_requested_stop_is_a_drain_even_with_status_0(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fake_worker()
    assert not compat_worker.draining(worker)
    monkeypatch.setattr(worker_state, "should_stop", value)
    assert compat_worker.draining(worker)


@pytest.mark.parametrize("state", [bootsteps.CLOSE, bootsteps.TERMINATE])
def test_a_stop_by_remote_control_is_a_drain(state: int) -> None:
    worker = fake_worker()
    worker.blueprint.state = state

    assert compat_worker.view_worker(worker).draining
    assert not compat_worker.draining(SimpleNamespace(blueprint=None))


def test_reading_the_state_does_not_create_the_channels_qos() -> None:
    assert not compat_worker.view_worker(fake_worker(_qos=None)).full
    full = SimpleNamespace(can_consume=lambda: False)
    assert compat_worker.view_worker(fake_worker(_qos=full)).full


def test_a_loop_that_waits_for_a_free_greenlet_may_fetch_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Running tasks that are acknowledged already do not count for kombu's limit."""
    fake = fake_worker()
    fake.pool = SimpleNamespace(is_green=True, _pool=SimpleNamespace(size=2))
    monkeypatch.setattr(worker_state, "active_requests", {1})
    assert not compat_worker.view_worker(fake).full
    monkeypatch.setattr(worker_state, "active_requests", {1, 2})
    assert compat_worker.view_worker(fake).full
    fake.pool.is_green = False
    assert not compat_worker.view_worker(fake).full


def test_celery_still_has_the_attributes_that_are_read() -> None:
    from celery.worker.consumer import Consumer
    from kombu.transport.redis import Channel, Transport
    from kombu.transport.virtual.base import Channel as VirtualChannel

    assert Channel._brpop_sent_at is None
    assert "_qos" in inspect.getsource(vars(VirtualChannel)["qos"].fget)
    assert Consumer.restart_count == -1
    assert Transport.brpop_timeout == 1
    assert Channel.health_check_interval > 0
    assert {"should_stop", "should_terminate", "active_requests"} <= set(vars(worker_state))


def test_the_steps_are_added_and_ready_comes_from_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))
    app = Celery("shop", set_as_current=False, broker="memory://")
    worker.install(app, Notifier(None))

    assert "Watchdog" in {step.__name__ for step in app.steps["worker"]}
    assert {"Ticker", "Drain"} <= {step.__name__ for step in app.steps["consumer"]}
    assert {"fleet_pause", "fleet_pauses", "fleet_resume"} <= Panel.data.keys()
    signals.worker_ready.disconnect(dispatch_uid="celery_fleet.ready")


def test_brokers_are_read_from_the_settings() -> None:
    app = Celery("shop", set_as_current=False, broker="rediss://w:p%40w@redis1:6390/2")
    app.conf.broker_use_ssl = {"ssl_ca_certs": "/ca.crt"}
    app.conf.result_backend = "redis://redis2/1"

    (endpoint,) = broker.endpoints(app)
    (results,) = broker.result_endpoints(app)

    assert endpoint.address == "redis1:6390"
    assert (endpoint.username, endpoint.password, endpoint.database) == ("w", "p@w", 2)
    assert endpoint.tls == {"ssl_ca_certs": "/ca.crt"}
    assert (results.address, results.database, results.tls) == ("redis2:6379", 1, None)


def test_every_broker_of_a_failover_list_is_known() -> None:
    app = Celery("shop", set_as_current=False, broker="redis://a:1/0;redis://b:2/0")

    assert [endpoint.address for endpoint in broker.endpoints(app)] == ["a:1", "b:2"]
