from __future__ import annotations

import os
import subprocess
import sys

import pytest
from celery import Celery

from celery_fleet.common import identity
from celery_fleet.worker import canary
from tests.unit.runtime.conftest import SOURCE


def test_the_canary_returns_its_process(monkeypatch: object) -> None:
    app = Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.task_annotations = {"*": {"acks_late": True, "ignore_result": True, "rate_limit": 1}}
    app.conf.task_default_rate_limit = "1/h"
    canary.register(app)
    canary.register(app)
    task = app.tasks["celery_fleet.canary"]

    answer = task.apply().get()

    assert answer == {"pid": os.getpid()}
    assert (task.acks_late, task.ignore_result, task.rate_limit) == (False, False, 0)


def test_a_spawned_child_answers_for_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(identity.VARIABLE, "")
    monkeypatch.setattr(identity, "_main", None)
    identity.remember()
    code = "from celery_fleet.common import identity; identity.remember(); print(identity.main())"

    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert child.stdout.strip() == str(identity.main())


@pytest.mark.parametrize(
    "stale",
    ["", "x:y:z", "1", pytest.param(f"{os.getpid()}:1:0.0", id="ours"), "4194305:7:1.0"],
)
def test_a_stale_main_process_is_not_returned(stale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(identity.VARIABLE, stale)
    monkeypatch.setattr(identity, "_main", None)
    identity.remember()

    assert identity.main().pid == os.getpid()


def test_a_process_can_be_distinguished_from_its_predecessor() -> None:
    mine = identity.current()
    child = os.fork()
    if child == 0:
        os._exit(0 if identity.main().pid == os.getpid() else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine.ticks == identity.read_start_ticks(os.getpid()) > 0
    assert identity.read_start_ticks(2**22 + 1) == 0
