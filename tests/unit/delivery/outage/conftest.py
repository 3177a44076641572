"""Fixtures of the tests of outages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture
def in_a_task(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make this process one that runs a task, and return that task."""
    task = SimpleNamespace(name="t", request=SimpleNamespace(id="1"), acks_late=True)
    monkeypatch.setattr("celery_fleet.compat.tasks.running_task", lambda: task)
    return task
