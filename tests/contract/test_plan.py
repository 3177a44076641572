"""The plan's parts are the plays of site.yml."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import PARTS

from scripts import playbooks
from tests.contract.test_repository import ROOT

VARIABLES = "celery_fleet.core.celery_app"


def roles_of(play: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a play's roles, except the one that holds the variables of the others and has no tasks."""
    return [role for role in play.get("roles", []) if role != VARIABLES]


def groups_of(play: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments of the lookup `fleet_hosts`."""
    return tuple(re.findall(r", '(\w+)'", play["hosts"]))


def test_every_part_has_the_hosts_and_tags_of_its_play() -> None:
    plays = playbooks.plays(ROOT / "playbooks/site.yml")
    found = {}
    for play in plays:
        for role in roles_of(play):
            name = role["role"].removeprefix("celery_fleet.core.")
            if name == "fleet":
                continue
            hosts = groups_of(play)
            # `verify` alone only checks hosts, so its part of the plan belongs to a deploy.
            tags = {*play["tags"], *role["tags"]} - {"verify"}
            found[name] = (hosts, tags)
    end = next(play for play in plays if play.get("name") == "Stop what moved to another host")
    # This is part of the role celery_release, in a separate play.
    commands = next(play for play in plays if play.get("name") == "Run the release's commands")
    found["celery_release_commands"] = (groups_of(commands), set(commands["tags"]))
    # This is part of the role celery_beat, in a separate play just before beat's.
    schedule = next(
        play for play in plays if play.get("name") == "Write the schedule into the database"
    )
    found["celery_beat_schedule"] = (groups_of(schedule), set(schedule["tags"]))
    found["celery_runtime_surplus"] = (("fleet",), set(end["tags"]))
    found["verify"] = (("celery_workers", "celery_beat", "celery_producers"), found["verify"][1])
    # The mark is left in a play that always runs.
    found["fleet"] = (("fleet",), {"always"})
    assert {part.name: (part.groups, set(part.tags)) for part in PARTS} == found
    aside = ("fleet", "celery_runtime_surplus", "celery_release_commands", "celery_beat_schedule")
    order = ["fleet", *(name for name in found if name not in aside)]
    assert [part.name for part in PARTS if part.name in order] == order
    # Then Redis is up, the runtime is there, and nothing of the new release has started.
    titles = [play.get("name") for play in plays]
    at = titles.index("Run the release's commands")
    assert titles.index("Give operators their command") < at < titles.index("Run the workers")
    at = [part.name for part in PARTS].index("celery_release_commands")
    assert [part.name for part in PARTS[at - 1 : at + 2 : 2]] == [
        "celery_cli",
        "celery_worker",
    ]
    # Then the site's certificate is there, and nginx can refuse the site before anything restarts.
    at = titles.index("Check the site of the web process")
    assert titles.index("Give each host its certificate") < at
    assert at < titles.index("Run the broker and the result store")
    # Workers already run elsewhere, and beat has not started yet.
    names = [part.name for part in PARTS]
    at = names.index("celery_runtime_surplus")
    assert names[at - 1 : at + 3] == [
        "celery_worker",
        "celery_runtime_surplus",
        "celery_beat_schedule",
        "celery_beat",
    ]
    at = titles.index("Write the schedule into the database")
    assert titles[at + 1] == "Run beat"


def test_a_deploy_stops_a_beat_that_has_moved_before_it_starts_the_new_one() -> None:
    titles = [play.get("name") for play in playbooks.plays(ROOT / "playbooks/deploy_app.yml")]
    at = titles.index("Stop what moved to another host before beat starts")
    assert titles.index("Observe a canary, then restart the workers") < at
    assert at < titles.index("Run beat with the release")


def test_a_play_that_ends_without_its_part_has_nothing_else() -> None:
    plays = playbooks.plays(ROOT / "playbooks/site.yml")
    ending = {}
    for play in plays:
        for task in play.get("pre_tasks", []):
            if ".due" in str(task["when"]):
                (part,) = set(re.findall(r"'(\w+)'", task["when"]))
                ending.setdefault(part, []).append(play)
    assert {"celery_runtime", "redis", "firewall", "celery_cli", "flower"} <= ending.keys()
    named = {part.name: part for part in PARTS}
    for part, found in ending.items():
        for play in found:
            assert groups_of(play) == named[part].groups
            assert {*play["tags"]} <= {*named[part].tags}
            roles = [role["role"] for role in roles_of(play)]
            roles += [task["ansible.builtin.import_role"]["name"] for task in play.get("tasks", [])]
            assert roles == [f"celery_fleet.core.{part.removesuffix('_surplus')}"]


def test_a_run_of_the_commands_role_alone_brings_the_runtime_that_it_names() -> None:
    names = [part.name for part in PARTS if "celery_cli" in part.tags]
    assert names == ["celery_runtime", "celery_cli"]


def test_a_run_that_takes_no_lease_writes_nothing() -> None:
    plays = {play["name"]: play for play in playbooks.plays(ROOT / "playbooks/site.yml")}
    (lease,) = plays["Keep other runs out"]["tasks"]
    marks = plays["Mark the hosts, and install packages"]["tasks"]
    (mark,) = [task for task in marks if task["name"] == "Mark the host"]
    assert lease["when"] == [
        "__celery_app_looked_before",
        '(ansible_run_tags | list) != ["verify"]',
    ]
    assert mark["when"] == ["__celery_app_begun", lease["when"][1]]


def test_with_any_tags_a_run_has_the_lease_a_plan_and_a_confirmation() -> None:
    plays = {play["name"]: play for play in playbooks.plays(ROOT / "playbooks/site.yml")}
    for name in ("Keep other runs out", "Plan", "Ask for confirmation", "Let other runs in"):
        assert plays[name]["tags"] == ["always"], name


def test_each_play_has_the_variables_of_its_roles() -> None:
    """Two roles import them, and `prometheus` reads none."""
    others = {f"celery_fleet.core.{name}" for name in ("preflight", "fleet_remove", "prometheus")}
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in playbooks.plays(path):
            used = {
                item.get("role") or item.get("ansible.builtin.import_role", {}).get("name")
                for item in steps(play)
            }
            if used - others - {None}:
                assert play.get("roles", [])[:1] == [VARIABLES], f"{path.name}: {play['name']}"


def with_preflight() -> list[str]:
    found = []
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        imported = {play.get("ansible.builtin.import_playbook") for play in playbooks.plays(path)}
        if "celery_fleet.core.preflight" in imported:
            found.append(path.name)
    return found


def steps(play: dict[str, Any]) -> list[dict[str, Any]]:
    """Return roles and tasks of a play. Those of a block have its conditions too; what they note needs no others."""
    found = roles_of(play)
    for item in play.get("tasks", []):
        inner = [{**item, **one} for one in item.get("block", [])]
        found += [one for one in inner if "celery_fleet.core.release_history" not in one] or [item]
    return found


def conditions(item: dict[str, Any]) -> list[str]:
    found = item.get("when", [])
    return [found] if isinstance(found, str) else list(found)


def test_playbooks_with_preflight_are_found() -> None:
    expected = {"deploy_app.yml", "plan.yml", "restart_workers.yml", "rollback_app.yml", "site.yml"}
    assert expected <= set(with_preflight())


@pytest.mark.parametrize("name", with_preflight())
def test_no_task_runs_if_the_beginning_was_skipped(name: str) -> None:
    """By `--start-at-task` or `--skip-tags always`. A condition of a role or an import holds for each of its tasks."""
    leased = False
    for play in playbooks.plays(ROOT / "playbooks" / name):
        for item in steps(play):
            imported = item.get("ansible.builtin.import_role", {})
            takes = imported.get("tasks_from") == "lease"
            first = conditions(item)[0] if conditions(item) else ""
            wanted = "__celery_app_begun" if leased else "__celery_app_looked_before"
            assert first == wanted, f"{name}: {play['name']}"
            assert imported or "role" in item, "this test does not know a condition of a role"
            leased = leased or takes
        for task in play.get("pre_tasks", []):
            assert "ansible.builtin.meta" in task, "it runs even if the beginning was skipped"
