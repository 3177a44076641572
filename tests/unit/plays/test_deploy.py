"""What deploy_app.yml does after its canary has passed or was refused, in real runs of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plays.conftest import Walk, ended_well
from tests.unit.plays.stand_ins import EARLIER

pytestmark = pytest.mark.slow

REASON = "mail@worker1 is refused as the canary"


def history(found: Walk) -> list[str]:
    """Return what was done with the record, in order, each once."""
    asked = [str(c["args"]["do"]) for c in found.calls if c["action"] == "release_history"]
    return list(dict.fromkeys(asked))


def rolls(found: Walk) -> list[bool]:
    """Return for each roll whether it had a canary."""
    return [
        bool(call["args"]["canary"])
        for call in found.calls
        if call["action"] == "rolling_restart" and call["args"]["phase"] == "open"
    ]


@pytest.mark.long
def test_a_deploy_that_passes_restarts_the_workers_once(walk: Any) -> None:
    found: Walk = walk(playbook="deploy_app")
    ended_well(found)
    assert rolls(found) == [True]
    assert history(found) == ["look", "deploy", "check", "note", "record"]
    results = [c["args"]["result"] for c in found.calls if c["args"].get("do") == "record"]
    assert results == ["deployed"]
    # Flower is set up after the check of the release, and then checked as well.
    checks = [
        (number, call["args"]["units"])
        for number, call in enumerate(found.calls)
        if call["action"] == "wait_for_services"
        and call["task"].endswith("verify : Wait for every service")
        and call["host"] == "control1"
    ]
    (flower,) = (number for number, call in enumerate(found.calls) if call["part"] == "flower")
    names = ["flexiprice-flower.service" in units for _, units in checks]
    assert names == [False, True]
    assert checks[0][0] < flower < checks[1][0]
    # The plan says what is observed, and the pending migrations are asked for before a worker restarts.
    assert "discounts@worker1, discounts@worker2" in found.done.stdout
    assert "is the canary: the others wait while it is observed for 60 s" in found.done.stdout
    actions = [(call["action"], call["args"].get("do")) for call in found.calls]
    migrations = actions.index(("release_commands", "migrations"))
    assert actions.index(("release_history", "check")) < migrations
    assert migrations < actions.index(("rolling_restart", None))


@pytest.mark.parametrize("playbook", ["deploy_app", "rollback_app"])
def test_nothing_is_held_before_the_plan_is_confirmed(walk: Any, playbook: str) -> None:
    found: Walk = walk("-e", "fleet_confirm=true", playbook=playbook, DUE="celery_worker")
    assert found.done.returncode == 2, found.done.stdout
    assert "Nothing was changed. Run the playbook again and answer yes" in found.done.stdout
    assert not found.recorded


@pytest.mark.parametrize(
    ("playbook", "option"),
    [
        ("deploy_app", "--tags=verify"),
        ("deploy_app", "--limit=worker1"),
        ("rollback_app", "--skip-tags=flower"),
        ("deploy_app", "-e celery_restart_workers=discounts"),
    ],
)
def test_neither_takes_a_part_of_the_fleet(walk: Any, playbook: str, option: str) -> None:
    found: Walk = walk(option, playbook=playbook)
    assert found.done.returncode == 2, found.done.stdout
    told = " ".join((found.done.stdout + found.done.stderr).split())
    assert f"Run the same command without {option.partition('=')[0]}: " in told
    assert not found.calls


def test_a_refused_canary_has_everything_go_back(walk: Any, tmp_path: Path) -> None:
    approved = tmp_path / "plan.json"
    ended_well(walk(f"--extra-vars=fleet_plan_json={approved}", playbook="plan"))
    # It is the deploy that was approved, and not the way back.
    found: Walk = walk(
        f"--extra-vars=fleet_plan_approved={approved}", playbook="deploy_app", REFUSED=REASON
    )
    assert found.done.returncode == 2, found.done.stdout
    output = found.done.stdout + found.done.stderr
    told = " ".join(output.split())
    assert REASON in told
    assert f"The fleet is back at release {EARLIER} and holds it" in told
    # The second roll is that of serve.yml.
    assert rolls(found) == [True, False]
    assert history(found) == ["look", "deploy", "check", "note", "refuse", "record"]
    (noted,) = {c["args"]["why"] for c in found.calls if c["args"].get("do") == "note"}
    assert noted == REASON
    results = [c["args"]["result"] for c in found.calls if c["args"].get("do") == "record"]
    assert results == ["rolled back"]
    # Beat and the web process had not moved.
    order = [call["part"] or call["action"] for call in found.calls]
    second = [n for n, name in enumerate(order) if name == "rolling_restart"]
    assert not {"celery_beat", "celery_producer"} & set(
        order[second[0] : order.index("host_plan", second[0])]
    )
    # Beat gets what the earlier release knows, and its workers need know no more.
    beat = [str(c["args"]) for c in found.calls if c["part"] == "celery_beat"]
    assert ["recompute-all-discounts" in text for text in beat] == [False] * len(beat)
    assert beat
    assert all("update_price_history" in text for text in beat)
    turns = [
        c["args"]["turns"]
        for c in found.calls
        if c["action"] == "rolling_restart"
        if "turns" in c["args"]
    ]
    assert len(turns[0]["schedule"]) == 3
    assert [*turns[-1]["schedule"]] == ["update-price-history"]
    # The lease is given back before the run fails.
    lease = [call["args"]["state"] for call in found.calls if call["action"] == "run_lease"]
    assert lease == ["present", "absent"]


@pytest.mark.long
def test_a_web_process_that_does_not_answer_has_everything_go_back(walk: Any) -> None:
    found: Walk = walk(playbook="deploy_app", SILENT="control1")
    assert found.done.returncode == 2, found.done.stdout
    told = " ".join(found.done.stdout.split())
    assert f"The fleet is back at release {EARLIER} and holds it" in told
    assert history(found) == ["look", "deploy", "check", "note", "refuse", "record"]
    assert "it does not answer" in {
        c["args"]["why"] for c in found.calls if c["args"].get("do") == "note"
    }
    results = [c["args"]["result"] for c in found.calls if c["args"].get("do") == "record"]
    assert results == ["rolled back"]


@pytest.mark.long
def test_a_host_that_is_down_does_not_keep_the_others_from_going_back(walk: Any) -> None:
    found: Walk = walk(playbook="deploy_app", REFUSED=REASON, DOWN="worker2")
    told = " ".join((found.done.stdout + found.done.stderr).split())
    assert f"The fleet is back at release {EARLIER} and holds it" in told
    assert rolls(found) == [True, False]
    assert "worker2" not in found.recorded
    assert "worker1" in found.recorded
    assert {call["action"] for call in found.calls if call["host"] == "worker2"} == {"host_facts"}


@pytest.mark.long
def test_a_release_that_serves_is_recorded_before_flower_fails(walk: Any) -> None:
    found: Walk = walk(playbook="deploy_app", UNBUILT="flower")
    assert found.done.returncode == 2, found.done.stdout
    assert "no index" in found.done.stdout
    results = [c["args"]["result"] for c in found.calls if c["args"].get("do") == "record"]
    assert results == ["deployed"]
    assert rolls(found) == [True]
    assert {"worker1", "control1"} <= found.recorded


@pytest.mark.parametrize("part", ["celery_runtime", "redis"])
def test_going_back_is_refused_if_processes_need_more_than_it_does(walk: Any, part: str) -> None:
    found: Walk = walk(playbook="rollback_app", DUE=f"celery_worker {part}")
    assert found.done.returncode == 2, found.done.stdout
    told = " ".join((found.done.stdout + found.done.stderr).split())
    assert "going back does not carry out these changes" in told
    assert f"{part} on " in told
    assert not found.recorded
    assert not rolls(found)


@pytest.mark.parametrize(
    ("playbook", "options", "action"),
    [
        ("site", ["--tags=verify"], "send_canaries"),
        pytest.param("restart_workers", [], "rolling_restart", marks=pytest.mark.long),
    ],
)
def test_runs_without_a_plan_demand_no_more_of_a_release_that_is_held(
    walk: Any, playbook: str, options: list[str], action: str
) -> None:
    found: Walk = walk(*options, playbook=playbook, HELD="yes")
    ended_well(found)
    args = [call["args"] for call in found.calls if call["action"] == action]
    schedules = [one.get("turns", one).get("schedule", {}).keys() for one in args]
    assert {name for names in schedules for name in names} == {"update-price-history"}


@pytest.mark.parametrize("held", [{}, {"HELD": "yes"}])
def test_a_release_that_is_held_runs_no_command_that_it_does_not_know(
    walk: Any, held: dict[str, str]
) -> None:
    commands = {"celery_release_commands": [{"name": "compress", "argv": ["compress"]}]}
    found: Walk = walk(f"--extra-vars={json.dumps(commands)}", "--tags=celery_worker", **held)
    ended_well(found)
    assert bool(found.hosts("release_commands", do="start")) is not bool(held)
