"""Remote control with greenlets, here in a thread, connects again when it loses its connection."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import pidbox
from celery.worker.consumer.control import Control

from celery_fleet.compat import remote_control
from tests.fleet import wait_for


class Worker:
    """A worker with a green pool, and a broker in memory; its first attempts to connect fail with the given errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        monkeypatch.setattr(pidbox, "gPidbox", pidbox.gPidbox)  # restored after the test
        monkeypatch.setattr(remote_control, "PAUSE", 0.01)
        remote_control.install()
        self.app = Celery("shop", set_as_current=False, broker="memory://")
        self.errors = list(errors)
        self.threads: list[threading.Thread] = []
        self.consumer: Any = SimpleNamespace(
            app=self.app,
            hostname="w@test",
            controller=SimpleNamespace(use_eventloop=False),
            pool=SimpleNamespace(is_green=True, spawn_n=self._spawn),
            connection=object(),
            connection_for_read=self._connect,
            connection_errors=(ConnectionError,),
            channel_errors=(),
            on_decode_error=None,
        )
        self.step = Control(self.consumer)

    def _spawn(self, function: Any, *args: Any) -> None:
        self.threads.append(threading.Thread(target=function, args=args, daemon=True))
        self.threads[-1].start()

    def _connect(self) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return self.app.connection_for_read()

    def ended(self) -> bool:
        (thread,) = self.threads
        thread.join(10)
        return not thread.is_alive()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name == "celery_fleet"]
    assert not any(record.exc_info for record in ours)
    return [record.getMessage() for record in ours]


@pytest.mark.slow
def test_it_answers_on_its_next_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(monkeypatch, ConnectionError("reset by peer"), ConnectionError("refused"))
    worker.step.start(worker.consumer)
    # The broker in memory loses a question that nobody listens to.
    wait_for(lambda: worker.app.control.ping(timeout=0.5))
    worker.step.stop(worker.consumer)
    assert worker.ended()
    assert told(caplog) == [
        "remote control: connection to broker lost (reset by peer)",
        "remote control: connection to broker lost (refused)",
    ]


def test_it_ends_with_the_consumers_own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer starts another one with its next connection."""
    worker = Worker(monkeypatch, ConnectionError("reset by peer"))
    worker.consumer.connection = None
    worker.step.start(worker.consumer)
    assert worker.ended()
    worker.step.stop(worker.consumer)


def test_a_stop_does_not_wait_for_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(monkeypatch, ConnectionError("reset by peer"))
    monkeypatch.setattr(remote_control, "PAUSE", 60.0)
    worker.step.start(worker.consumer)
    wait_for(lambda: told(caplog))
    worker.step.stop(worker.consumer)
    assert worker.ended()
