"""What the load's application records about senders that wait for the broker."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals

from tests.support.redis_server import Server, redis_server

from .conftest import APPLICATION


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, str]]]:
    """Collect what would be written to the record's database."""
    rows: list[tuple[str, int, str]] = []
    record = SimpleNamespace(note_held_up=lambda *row: rows.append(row))
    package = ModuleType("load")
    vars(package)["record"] = record
    monkeypatch.setitem(sys.modules, "load", package)
    spec = importlib.util.spec_from_file_location("load_events", APPLICATION / "load" / "events.py")
    assert spec is not None
    assert spec.loader is not None
    events: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(events)
    # A busy machine may take longer than usual for a message.
    monkeypatch.setattr(events, "HELD_UP", 1.0)
    signals.before_task_publish.connect(events._send)
    signals.after_task_publish.connect(events._sent)
    yield rows
    signals.before_task_publish.disconnect(events._send)
    signals.after_task_publish.disconnect(events._sent)


@pytest.mark.slow
def test_only_senders_that_wait_for_the_broker_are_recorded(
    broker: Server, noted: list[tuple[str, int, str]]
) -> None:
    app = Celery("load", broker=broker.url, set_as_current=False)
    app.send_task("load.nap", task_id="first")  # imports, and connects
    noted.clear()
    app.send_task("load.nap", task_id="quick")
    assert noted == []
    broker.signal(signal.SIGSTOP)
    thaw = threading.Timer(3.0, broker.signal, (signal.SIGCONT,))
    thaw.start()
    began = time.monotonic()
    app.send_task("load.nap", task_id="waits", retries=1)
    assert time.monotonic() - began > 1, "it was not held up"
    thaw.join()
    assert noted == [("waits", 1, "")]
    app.close()
