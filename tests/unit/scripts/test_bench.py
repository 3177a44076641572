from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.bench import __main__ as bench
from scripts.bench import figures, fleets, runs
from tests.unit.preflight.inventory import problems

VERBOSE = """
<10.0.0.1> SSH: EXEC ssh -o one
Using module file /somewhere/plugins/modules/reconcile.py
<10.0.0.2> SSH: EXEC ssh -o one
<10.0.0.1> SSH: EXEC ssh -o two
Using module file /somewhere/plugins/modules/reconcile.py
Using module file /elsewhere/ansible/modules/apt.py
"""
RECAP = """
worker1                    : ok=9    changed=2    unreachable=0    failed=0    skipped=1
worker2                    : ok=9    changed=1    unreachable=0    failed=0    skipped=1
"""
PROFILE = """
===============================================================================
redis : Settle Redis --------------------------------------------------- 12.34s
Gather what is --- there ------------------------------------------------ 0.50s
"""


def test_calls_are_counted_by_host_and_module() -> None:
    calls = runs.Calls.of(VERBOSE)
    assert calls == runs.Calls({"reconcile.py": 2, "apt.py": 1}, [1, 2])
    assert "1.5 module executions a host" in str(calls)


def test_changes_are_read_from_the_recap() -> None:
    assert runs.changed(RECAP) == 3
    with pytest.raises(runs.BenchError, match="no recap"):
        runs.changed("nothing")


def test_the_profile_is_read() -> None:
    assert runs.TASK.findall(PROFILE) == [
        ("redis : Settle Redis", "12.34"),
        ("Gather what is --- there", "0.50"),
    ]


def test_goals_are_judged_by_medians() -> None:
    found = {"slow": [30.0, 10.0, 12.0], "fast": [1.0, 2.0, 1.0]}
    met = figures.ratio("slow as a multiple of fast", found, "slow", "fast", 12)
    assert (met.value, met.is_met) == (12.0, True)
    assert "met" in str(met)
    assert not figures.ratio("slow", found, "slow", "fast", 11.9).is_met
    text = figures.report(found, [met], ["a note"])
    assert "| slow | 12.0 s | 10.0 to 30.0 s |" in text
    assert text.endswith("- a note")


def test_the_sides_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = runs.in_turn(2, {"a": lambda: measure("a"), "b": lambda: measure("b")})
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_failing_command_is_named_with_its_last_lines() -> None:
    with pytest.raises(runs.BenchError, match=r"`sh -c .*` failed:\nwhy"):
        runs.run(["sh", "-c", "echo why >&2; exit 3"])


def test_hosts_are_removed_if_one_of_them_cannot_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def run(command: Sequence[str]) -> None:
        steps.append(command[3])
        if command[3] == "create":
            raise runs.BenchError("worker5 is degraded")

    monkeypatch.setattr(fleets, "run", run)
    with (
        pytest.raises(runs.BenchError, match="worker5"),
        fleets.hosts_of("bench", tmp_path, ["worker5"]),
    ):
        pytest.fail("the hosts are not there")
    assert steps == ["create", "destroy"]


def test_inventory_has_a_worker_for_each_queue_on_each_host() -> None:
    inventory = fleets.inventory_of(3, 24)
    groups = inventory["fleet"]["children"]
    assert list(groups["celery_workers"]["hosts"]) == ["worker1", "worker2", "worker3"]
    assert len(inventory["all"]["vars"]["celery_worker_instances"]) == 24


def test_the_generated_inventory_passes_preflight() -> None:
    inventory = fleets.whole_inventory(50, 24)
    groups = {name: [*group["hosts"]] for name, group in inventory["fleet"]["children"].items()}
    groups["fleet"] = [*inventory["all"]["hosts"]]
    assert len(groups["fleet"]) == 50
    assert problems(inventory["all"]["vars"], inventory["all"]["hosts"], groups) == []


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["secnod"])
    assert (
        "no part secnod; there are second, queues, hosts, cold, preflight"
        in capsys.readouterr().err
    )
