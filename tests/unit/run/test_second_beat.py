"""A run that could leave two beats that send is refused, and a beat that runs has its turn before new ones."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.comparison import compare
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reasons import explain
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import Plan, PlanItem
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.second_beat import refusal

from tests.contract.test_repository import ROOT

RESTART = PlanItem("worker1", "celery_worker", "shop-worker@a.service", "restart", ("setting x",))
BEAT = PlanItem("control1", "celery_beat", "shop-beat.service", "start", ("new",))


def test_beat_only_moves_to_a_new_host_if_it_ends_on_the_old_one() -> None:
    assert refusal([RESTART, BEAT], [], ["all"], []) == ""
    assert refusal([RESTART, BEAT], [], ["celery_beat"], []) == ""
    words = refusal([BEAT], ["worker1", "worker2"], ["all"], [])
    assert "control1 would get its beat" in words
    assert "worker1, worker2, which --limit leaves out" in words
    assert "without --limit" in words
    # This is the tag of another role, whose components end in the same play.
    assert "without --skip-tags" in refusal([BEAT], [], ["all"], ["flower"])


def test_beat_only_moves_to_a_new_host_if_no_host_is_down() -> None:
    words = refusal([RESTART, BEAT], [], ["all"], [], ["worker1"])
    assert "control1 would get its beat" in words
    assert "worker1, which can't be reached" in words
    assert "systemctl disable --now shop-beat." in words
    assert refusal([RESTART], [], ["all"], [], ["worker1"]) == ""


def test_a_beat_that_was_already_on_its_host_is_not_a_second_one() -> None:
    stopped = PlanItem(BEAT.host, BEAT.part, BEAT.subject, "start", ("it is inactive",))
    again = PlanItem(BEAT.host, BEAT.part, BEAT.subject, "restart", ("setting x",))
    assert refusal([stopped, again, RESTART], ["worker1"], ["all"], ["flower"]) == ""


@pytest.mark.parametrize("explained", [True, False])
def test_of_several_beats_only_one_is_left_if_the_others_end(explained: bool) -> None:
    label = "settings beat_standby"
    why = explain(label, "true", None) if explained else compare({label: "1", "x": "1"}, {"x": "1"})
    beat = PlanItem("control1", BEAT.part, BEAT.subject, "restart", (*(why or ()), "setting x"))
    assert refusal([RESTART, beat], [], ["all"], []) == ""
    words = refusal([beat], ["worker1"], ["all"], [])
    assert "the beat of control1 would send without asking others" in words
    assert "worker1, which --limit leaves out" in words
    words = refusal([beat], [], ["all"], [], ["worker1"])
    assert "worker1, which can't be reached" in words
    assert "without --skip-tags" in refusal([beat], [], ["all"], ["flower"])


def test_a_beat_that_becomes_one_of_several_may_restart_without_the_others() -> None:
    why = explain("settings beat_standby", None, "true")
    beat = PlanItem("control1", BEAT.part, BEAT.subject, "restart", tuple(why or ()))
    assert refusal([beat], ["worker1"], ["all"], [], ["worker2"]) == ""


def test_a_beat_that_runs_has_its_turn_before_new_ones() -> None:
    """It sends until it restarts, and a new one would find no other that sends."""
    role = yaml.safe_load((ROOT / "roles/celery_beat/vars/main.yml").read_text())
    names = ("__celery_beat_new", "__celery_beat_turns")
    given: dict[str, Any] = {name: trust_as_template(role[name]) for name in names}
    given["__celery_app_groups"] = {"celery_beat": ["control1", "control2", "control3"]}
    tasks = yaml.safe_load((ROOT / "roles/celery_beat/tasks/main.yml").read_text())
    turns = trust_as_template(tasks[0]["loop"])
    running = PlanItem("control2", BEAT.part, BEAT.subject, "restart", ("beat_standby → true",))
    plan = Plan([BEAT, running], ["control1", "control2"]).as_dict()
    for report, order in (
        ({"plan": plan}, ["control2", "control3", "control1"]),
        ({"plan": Plan([running], ["control2"]).as_dict()}, ["control1", "control2", "control3"]),
        ({}, ["control1", "control2", "control3"]),
    ):
        variables = {**given, "__fleet_plan_report": report}
        templar = Templar(loader=DataLoader(), variables=variables)
        assert templar.template(turns) == order
    assert Templar(loader=DataLoader(), variables=given).template(turns) == order
