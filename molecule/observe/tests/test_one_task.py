"""One task, followed across hosts: by its history, and by the journal of each host."""

from __future__ import annotations

import json
from typing import Any

from support.inventory import Fleet
from support.tasks import Task, send, tracer
from support.waiting import wait_for

APP = "flexiprice"
WORKERS = ("worker1", "worker2")


def history(fleet: Fleet, task_id: str) -> dict[str, Any]:
    """What `celery-fleet task` says, on a host that has no part in the task."""
    done = fleet.execute("control1", ["celery-fleet", "--format", "json", "task", task_id])
    assert done.status in (0, 1), done.errors
    found: dict[str, Any] = json.loads(done.output)
    return found


def ends(fleet: Fleet, task_id: str) -> list[tuple[str, str]]:
    """Where each run of a task was, and how it ended."""
    return [(run["node"], run["state"]) for run in history(fleet, task_id)["runs"]]


def wait_for_ends(fleet: Fleet, task_id: str, seconds: float, *states: str) -> None:
    """Wait until a task's runs have these states; otherwise fail with the history."""
    wait_for(
        f"{task_id} has {', '.join(states)}",
        seconds,
        lambda: [state for _, state in ends(fleet, task_id)] == list(states),
        pause=1,
        explain=lambda: json.dumps(history(fleet, task_id), indent=1),
    )


def journal(fleet: Fleet, host: str, task_id: str) -> list[dict[str, Any]]:
    command = ["journalctl", "--output=json", "--all", f"CELERY_TASK_ID={task_id}"]
    return [json.loads(line) for line in fleet.must(host, command).splitlines()]


def test_the_history_says_which_worker_ran_a_task(fleet: Fleet) -> None:
    (task_id,) = send(fleet, [tracer("history", "analytics", 1)])
    wait_for(
        "it is there",
        60,
        lambda: ends(fleet, task_id) == [("analytics@worker2", "succeeded")],
        pause=1,
    )
    found = history(fleet, task_id)
    (run,) = found["runs"]
    assert run["sent"] - 2 <= run["received"] <= run["started"] < run["ended"]
    assert (run["name"], run["queue"]) == ("app.tasks.record_run", "analytics")
    assert found["result"]["state"] in ("SUCCESS", "PENDING")
    shown = fleet.must("control1", ["celery-fleet", "task", task_id])
    for words in ("was sent", "was received from the queue analytics", "was started", "succeeded"):
        assert words in shown


def test_the_history_shows_a_worker_that_died(fleet: Fleet) -> None:
    """The task ran there for some seconds; another worker, or the same one, runs it again."""
    (task_id,) = send(fleet, [tracer("died", "discounts", 20)])
    wait_for_ends(fleet, task_id, 60, "started")
    ((node, _),) = ends(fleet, task_id)
    worker, host = node.split("@")
    unit = f"{APP}-worker@{worker}"
    fleet.must(host, ["systemctl", "kill", "--signal=KILL", "--kill-whom=all", unit])
    wait_for_ends(fleet, task_id, 90, "started", "succeeded")
    assert ends(fleet, task_id)[0][0] == node
    shown = fleet.must("control1", ["celery-fleet", "task", task_id])
    assert "has no recorded end: the worker died" in shown


def test_the_journal_tells_what_the_history_can_not(fleet: Fleet) -> None:
    """On the host that ran the task: both have the run, and without a network only the journal does."""
    (task_id,) = send(fleet, [tracer("both", "analytics", 1)])
    wait_for_ends(fleet, task_id, 60, "succeeded")
    command = ["celery-fleet", "--format", "json", "task", task_id]
    (both,) = json.loads(fleet.must("worker2", command))["runs"]
    alone = fleet.execute("worker2", ["unshare", "--net", *command])
    assert alone.status == 0, alone.errors
    assert "the result store can't be asked" in alone.errors
    assert "this is what the journal of worker2 has" in alone.errors
    assert f"sudo celery-fleet logs --task {task_id} on worker1" in alone.errors
    (run,) = json.loads(alone.output)["runs"]
    assert (both["source"], run["source"]) == ("history", "journal")
    for name in ("name", "node", "queue", "release", "state"):
        assert run[name] == both[name]
    for name in ("received", "started", "ended"):
        assert abs(run[name] - both[name]) < 0.5


def test_the_journal_has_the_fields_of_a_task_and_not_its_arguments(fleet: Fleet) -> None:
    secret = "t0psecret"
    # It returns nothing; what a task returns is in its log, as with every Celery.
    (task_id,) = send(fleet, [Task("app.tasks.record_tick", "analytics", {"source": secret})])
    wait_for("it is logged", 60, lambda: len(journal(fleet, "worker2", task_id)) >= 2)
    entries = journal(fleet, "worker2", task_id)
    for entry in entries:
        assert entry["CELERY_APP"] == APP
        assert entry["CELERY_WORKER"] == "analytics"
        assert entry["CELERY_TASK"] == "app.tasks.record_tick"
        assert len(entry["CELERY_RELEASE"]) == 12
        assert entry["_SYSTEMD_UNIT"] == f"{APP}-worker@analytics.service"
        assert entry["PRIORITY"] == "6"
    assert any(entry.get("CELERY_QUEUE") == "analytics" for entry in entries)
    assert secret not in json.dumps(entries)
    shown = fleet.must("worker2", ["celery-fleet", "logs", "--task", task_id])
    assert shown.count(task_id) == len(entries)
    assert fleet.must("worker1", ["celery-fleet", "logs", "--task", task_id]).strip() in (
        "",
        "-- No entries --",
    )


def test_a_task_that_fails_is_an_error_in_the_journal(fleet: Fleet) -> None:
    (task_id,) = send(fleet, [Task("app.tasks.my_custom_task", "analytics")])
    wait_for(
        "it is logged",
        60,
        lambda: "3" in {entry["PRIORITY"] for entry in journal(fleet, "worker2", task_id)},
    )
    (failed,) = [entry for entry in journal(fleet, "worker2", task_id) if entry["PRIORITY"] == "3"]
    # The whole traceback is one entry.
    assert "Traceback" in failed["MESSAGE"]
    assert failed["MESSAGE"].count("\n") > 2


def test_no_worker_says_that_it_lost_history(fleet: Fleet) -> None:
    for host in WORKERS:
        said = fleet.must(host, ["journalctl", f"CELERY_APP={APP}", "--output=cat"])
        assert "the history of tasks" not in said
