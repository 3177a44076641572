from __future__ import annotations

import os

from celery import Celery

from celery_fleet import canary, identity


def test_it_answers_who_runs_it(monkeypatch: object) -> None:
    app = Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.task_annotations = {"*": {"acks_late": True, "ignore_result": True, "rate_limit": 1}}
    canary.register(app)
    canary.register(app)
    task = app.tasks["celery_fleet.canary"]

    answer = task.apply().get()

    assert answer["pid"] == os.getpid()
    assert answer["start_id"].startswith(f"{os.getpid()}-")
    assert (task.acks_late, task.ignore_result, task.rate_limit) == (False, False, None)


def test_a_process_is_told_from_its_predecessor() -> None:
    mine = identity.current()
    child = os.fork()
    if child == 0:
        os._exit(0 if identity.main().pid == os.getpid() else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine.ticks == identity.read_start_ticks(os.getpid()) > 0
    assert identity.read_start_ticks(2**22 + 1) == 0
