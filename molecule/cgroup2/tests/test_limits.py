"""The kernel enforces memory limits: a task that allocates without end loses its process, and nothing else."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ground import PATIENCE, QUEUE
from support import units
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from ground import Ground

FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
#: Seconds for which an ordinary task runs beside the greedy one: longer than it takes to kill the greedy one each time.
BESIDE = 60.0
#: Number of killed attempts before a task succeeds: one fewer than make it a dead letter.
DEATHS = 2


def number(text: str) -> int:
    """Return a memory limit in bytes."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    assert found, text
    return int(found[1]) * FACTORS[found[2]]


def same_process(ground: Ground, before: units.State) -> None:
    """Check that the worker has the same main process, and that systemd has not started another since."""
    after = units.state(ground.fleet, ground.name, ground.worker_unit())
    kept = ("ActiveState", "MainPID", "NRestarts", "InvocationID", "Result")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


def test_the_kernel_has_the_memory_limits_of_the_inventory(ground: Ground) -> None:
    limited = {
        worker: options["memory_max"]
        for worker, options in ground.variables["celery_worker_instances"].items()
        if "memory_max" in options
    }
    assert limited
    for worker, limit in limited.items():
        unit = ground.worker_unit(worker)
        assert ground.group_file(unit, "memory.max") == str(number(limit))
        assert ground.show(unit, "MemoryMax") == {"MemoryMax": str(number(limit))}
        # If one process exceeds the limit, the others continue: OOMPolicy=continue.
        assert ground.show(unit, "OOMPolicy") == {"OOMPolicy": "continue"}
        assert ground.group_file(unit, "memory.oom.group") == "0"


def test_a_limit_covers_every_process_of_a_unit(ground: Ground) -> None:
    """All processes, including the pool's children, are in the control group that has the limit."""
    unit = ground.worker_unit()
    slice_ = ground.show(unit, "Slice", "ControlGroup")
    assert slice_["ControlGroup"] == ground.group(unit)
    assert slice_["Slice"] in slice_["ControlGroup"].split("/")
    pids = ground.group_file(unit, "cgroup.procs").split()
    concurrency = ground.variables["celery_worker_instances"][QUEUE]["concurrency"]
    assert len(pids) == 1 + concurrency
    assert int(ground.group_file(unit, "memory.current")) < int(
        ground.group_file(unit, "memory.max")
    )


def test_exceeding_a_limit_ends_the_task_and_not_the_worker(
    ground: Ground, label: str, note: Callable[[str], None]
) -> None:
    """A task that uses too much memory is killed and delivered again; the worker and its other task continue."""
    unit = ground.worker_unit()
    before, killed = units.state(ground.fleet, ground.name, unit), ground.events(unit)["oom_kill"]
    since = units.now(ground.fleet, ground.name)
    ground.send("app.tasks.record_run", f"{label}-beside", seconds=BESIDE)
    beside = ground.begun(f"{label}-beside")[0]
    greedy = ground.send("app.trials.take_memory", f"{label}-greedy", deaths=DEATHS)
    attempts = ground.ended(f"{label}-greedy")
    assert [row["finished_at"] is not None for row in attempts] == [False] * DEATHS + [True]
    assert len({row["pid"] for row in attempts}) == DEATHS + 1
    assert {row["task_id"] for row in attempts} == {greedy}

    assert ground.events(unit)["oom_kill"] == killed + DEATHS
    assert ground.events(unit)["oom_group_kill"] == 0
    assert int(ground.group_file(unit, "memory.peak")) <= int(ground.group_file(unit, "memory.max"))
    same_process(ground, before)
    kernel = ground.must(["journalctl", "--dmesg", "--output=cat", f"--since={since}"])
    victims = re.findall(r"Memory cgroup out of memory: Killed process (\d+)", kernel)
    assert victims == [str(row["pid"]) for row in attempts[:DEATHS]]
    journal = units.journal(ground.fleet, ground.name, unit, since)
    assert journal.count("signal 9 (SIGKILL)") >= DEATHS

    end = ground.end_of(greedy)
    assert (end["state"], end["result"]) == ("SUCCESS", DEATHS + 1)
    # The other task was never disturbed.
    rows = ground.ended(f"{label}-beside", PATIENCE + BESIDE)
    assert [(row["id"], row["attempt"]) for row in rows] == [(beside["id"], 1)]
    note(f"{DEATHS} deaths by the kernel and the end in {span(attempts):.0f} s")


def span(attempts: list[dict[str, Any]]) -> float:
    """Return the seconds from the start of the first attempt to the end of the last."""
    first, last = attempts[0]["started_at"], attempts[-1]["finished_at"]
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def test_a_task_that_always_exceeds_its_limit_becomes_a_dead_letter(
    ground: Ground, label: str
) -> None:
    """It is killed as often as the inventory allows. Then no worker gets it again, and this one takes other tasks."""
    unit, deaths = ground.worker_unit(), ground.variables["celery_worker_max_crashes_per_task"]
    before = units.state(ground.fleet, ground.name, unit)
    identity = ground.send("app.trials.take_memory", f"{label}-poison", deaths=100)

    letter = wait_for(
        "it is a dead letter", 2 * PATIENCE, lambda: ground.dead_letter(identity), pause=3
    )
    assert (letter["reason"], letter["task"]) == ("poison", "app.trials.take_memory")
    assert letter["node"] == f"{QUEUE}@{ground.name}"
    attempts = ground.begun(f"{label}-poison", deaths)
    assert len(attempts) == deaths
    assert [row for row in attempts if row["finished_at"]] == []
    end = ground.end_of(identity)
    assert end["state"] == "FAILURE"
    assert "WorkerLostError" in end["error"]
    same_process(ground, before)
    ground.send("app.trials.take_memory", f"{label}-modest", deaths=0)
    ground.ended(f"{label}-modest")
