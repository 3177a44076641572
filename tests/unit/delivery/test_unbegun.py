"""Tasks that Celery's pool loses on the way into a process, with a real worker."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fleet import running, wait_for

pytestmark = pytest.mark.slow

# The pool believes that it has written its second task. Nothing of it arrives.
LOSES = """
from celery.concurrency.asynpool import AsynPool
original = AsynPool.on_process_alive
jobs = []

def alive(self, pid):
    original(self, pid)
    process = next(one for one in self._pool if one.pid == pid)
    send = process.send_job_offset

    def sent(buffer, offset):
        if len(buffer) == 4 and offset == 0:
            jobs.append(None)
        return len(buffer) - offset if len(jobs) == 2 else send(buffer, offset)

    process.send_job_offset = sent

AsynPool.on_process_alive = alive
import celery_fleet.worker.unbegun as unbegun
unbegun.LOOKS = 2
"""


def test_a_task_that_is_lost_on_the_way_runs_once(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOSES)
    with running(tmp_path, "-P", "prefork", "-c", "1", history=1) as fleet:
        for number in range(3):
            fleet.app().send_task("shop.note", [number], task_id=f"note-{number}", queue="mail")
        wait_for(lambda: len(fleet.ledger()) == 3, 20)
        time.sleep(1)
        assert sorted(fleet.ledger()) == [0, 1, 2]
        assert fleet.log().count("has not arrived in process") == 1
        assert "task note-1 has not arrived in process" in fleet.log()
