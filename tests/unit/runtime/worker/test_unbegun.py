"""When a task that has not arrived in its process counts as lost."""

from __future__ import annotations

import os
import signal

import pytest

from celery_fleet.compat import lost_jobs
from celery_fleet.worker import unbegun

ONE, TWO = lost_jobs.Given(1, "one", 101), lost_jobs.Given(2, "two", 102)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


def look(monkeypatch: pytest.MonkeyPatch, *rounds: list[lost_jobs.Given]) -> None:
    tasks = unbegun.UnbegunTasks()
    for lost in rounds:
        monkeypatch.setattr(lost_jobs, "lost_on_the_way", lambda _, lost=lost: lost)
        tasks.look(None)


def test_only_a_task_that_each_look_finds_is_lost(
    monkeypatch: pytest.MonkeyPatch, killed: list[tuple[int, int]]
) -> None:
    """The second one arrives in between, or was given to a process again."""
    rounds = [[ONE, TWO]] * (unbegun.LOOKS - 1)
    look(monkeypatch, *rounds, [ONE], [TWO])
    assert killed == [(101, signal.SIGKILL)]


def test_a_task_on_its_way_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, killed: list[tuple[int, int]]
) -> None:
    look(monkeypatch, *[[ONE]] * (unbegun.LOOKS - 1))
    assert killed == []


def test_a_process_that_has_just_ended_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    look(monkeypatch, *[[ONE]] * unbegun.LOOKS)
