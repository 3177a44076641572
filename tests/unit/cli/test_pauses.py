"""`celery-fleet pause --wait`, with replies of workers that the test gives it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.cli import ask, output
from celery_fleet.cli.commands import pauses
from tests.unit.cli.conftest import Call

WHY_NOT = {"why_not": "its pool has no event loop"}
REFUSED = "celery-fleet: mail@worker1 does not obey pauses: its pool has no event loop\n"


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the workers reply to one question after the other; the last reply stays."""
    found: list[dict[str, Any]] = []

    def question(*_: Any, **__: Any) -> dict[str, Any]:
        workers = found.pop(0) if len(found) > 1 else found[0]
        return {"pauses": [], "changed": [], "workers": workers, "unheard": None}

    monkeypatch.setattr(ask, "question", question)
    monkeypatch.setattr(pauses, "INTERVAL", 0.01)
    return found


@pytest.fixture(autouse=True)
def in_time(place: Path) -> Iterator[None]:
    """No test here waits as long as `--wait` says."""
    del place
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


def test_a_worker_that_can_not_pause_is_not_waited_for(
    call: Call, replies: list[dict[str, Any]]
) -> None:
    replies.append({"mail@worker1": WHY_NOT})
    done = call("pause", "--queue", "mail", "--wait", "20")
    assert (done.exit_code, done.stderr) == (1, REFUSED)


def test_the_others_are_waited_for_after_it_is_told_once(
    call: Call, replies: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies += [
        {"mail@worker1": WHY_NOT, "bulk@worker1": {"paused": {"bulk": running, "slow": 0}}}
        for running in (2, 1, 0)
    ]
    slept: list[int] = []
    said: list[int] = []
    monkeypatch.setattr(time, "sleep", lambda _: slept.append(1))
    monkeypatch.setattr(output, "say", lambda *_, **__: said.append(len(slept)))
    done = call("pause", "--host", "worker1", "--wait", "20", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["workers"]["bulk@worker1"]["paused"]["bulk"] == 0
    assert (said, len(slept)) == ([0], 2)


def test_what_still_runs_is_named_without_it(call: Call, replies: list[dict[str, Any]]) -> None:
    replies.append({"mail@worker1": WHY_NOT, "bulk@worker1": {"paused": {"bulk": 1, "slow": 0}}})
    done = call("pause", "--host", "worker1", "--wait", "0.2")
    assert done.exit_code == 1
    assert done.stderr == f"{REFUSED}celery-fleet: after 0.2 s 1 task still runs\n"


def test_ctrl_c_ends_the_waiting_and_not_the_pause(
    call: Call, replies: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    replies.append({"mail@worker1": {"paused": {"mail": 1}}})
    monkeypatch.setattr(time, "sleep", interrupted)
    done = call("pause", "--queue", "mail", "--wait", "600")
    assert done.exit_code == 1
    assert "Queue mail was already paused." in done.stdout
    assert done.stderr == "celery-fleet: after 0.1 s 1 task still runs\n"


def test_a_worker_that_can_pause_again_is_waited_for(
    call: Call, replies: list[dict[str, Any]]
) -> None:
    busy = {"paused": {"bulk": 1, "slow": 0}}
    idle = {"paused": {"bulk": 0, "slow": 0}}
    replies += [
        {"mail@worker1": WHY_NOT, "bulk@worker1": busy},
        {"mail@worker1": {"paused": {"mail": 1}}, "bulk@worker1": idle},
        {"mail@worker1": {"paused": {"mail": 0}}, "bulk@worker1": idle},
    ]
    done = call("pause", "--host", "worker1", "--wait", "20")
    assert (done.exit_code, done.stderr) == (0, REFUSED)
