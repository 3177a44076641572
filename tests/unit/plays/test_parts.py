"""Which play acts where under `--limit` and `--tags`, in real runs of the delivered site.yml.

Everything is due, so no play ends because there is nothing to do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import (
    PARTS,
    parts_in,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import Plan

from tests.unit.plays.conftest import BY_OTHERS, RECORD, Walk, ended_well

LOOKING = {"host_facts", "host_plan", "send_canaries", "wait_for_services", "service_report"}


@pytest.mark.slow
def test_a_whole_run_does_every_part_on_its_hosts_in_their_order(walk: Any) -> None:
    found: Walk = walk()
    ended_well(found)
    everywhere = set(found.groups["fleet"])
    assert found.settled == found.expected({"all"}, everywhere)
    assert found.recorded == everywhere
    settling = [
        call
        for call in found.calls
        if call["action"] == "reconcile" and not call["task"].endswith(RECORD)
    ]
    order = [call["part"] for call in settling if not call["args"].get("trial")]
    names = [part.name for part in PARTS if part.name in order]
    assert list(dict.fromkeys(order)) == names
    # Redis comes again at the end, when it takes back the rights of earlier processes.
    finish = [call["args"].get("finish") for call in found.calls if call["part"] == "redis"]
    assert finish == [False, True]
    assert order[-len(found.settled["verify"]) - 1] == "redis"
    assert found.hosts("rolling_restart", phase="restart") == set(found.groups["celery_workers"])
    # nginx checks the site while everything still runs.
    assert found.hosts("reconcile", trial=True) == set(found.groups["celery_producers"])
    actions = [(call["action"], bool(call["args"].get("trial"))) for call in found.calls]
    assert actions.index(("reconcile", True)) < actions.index(("rolling_restart", False))
    lease = [call["args"]["state"] for call in found.calls if call["action"] == "run_lease"]
    assert lease == ["present", "absent"]


@pytest.mark.slow
def test_tasks_that_no_worker_runs_any_more_fail_a_run_that_is_otherwise_done(walk: Any) -> None:
    found: Walk = walk(WAITING='{"mail": 42, "sms": 1}')
    assert found.done.returncode == 2
    assert "  42 tasks in queue mail, which the inventory does not name: no" in found.done.stdout
    told = " ".join(found.done.stdout.split())
    assert "so no worker runs them: 42 in mail, 1 in sms." in told
    assert "celery-fleet purge mail" in told
    assert found.hosts("send_canaries")
    assert found.recorded == set(found.groups["fleet"])
    lease = [call["args"]["state"] for call in found.calls if call["action"] == "run_lease"]
    assert lease == ["present", "absent"]


@pytest.mark.long
def test_a_play_without_a_part_in_the_plan_runs_no_task(walk: Any) -> None:
    code = {"celery_worker", "celery_beat", "celery_producer", "verify"}
    found: Walk = walk(DUE=" ".join(code), ANSIBLE_DISPLAY_SKIPPED_HOSTS="yes")
    ended_well(found)
    assert found.settled.keys() == code - BY_OTHERS
    assert found.hosts("rolling_restart", phase="restart") == set(found.groups["celery_workers"])
    assert found.hosts("reconcile", trial=True) == set()
    tasks = re.findall(
        r"^TASK \[celery_fleet\.core\.(\w+) : (.*?)\]", found.done.stdout, re.MULTILINE
    )
    acting = {role for role, task in tasks if not task.startswith("plan | ")}
    assert not acting & {"celery_runtime", "firewall", "redis", "flower", "celery_health"}
    # The operator's command is packed for the plan, and the hosts are not asked for it.
    assert "celery_cli" not in acting
    built = [call["args"]["root"] for call in found.calls if call["action"] == "release"]
    assert set(built) == {"/opt/flexiprice"}


@pytest.mark.slow
def test_a_run_with_nothing_to_do_prints_little(walk: Any) -> None:
    found: Walk = walk(DUE="none")
    ended_well(found)
    lines = found.done.stdout.splitlines()
    assert "Plan: nothing to do, 4 hosts as the inventory says." in lines
    assert len(lines) < 120, found.done.stdout
    assert "PLAY [Run the workers]" not in found.done.stdout


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("worker1", marks=pytest.mark.slow),
        pytest.param("redis1", marks=pytest.mark.long),
        pytest.param("control1", marks=pytest.mark.long),
    ],
)
def test_a_limited_run_only_changes_its_hosts(walk: Any, host: str) -> None:
    found: Walk = walk(f"--limit={host}")
    ended_well(found)
    assert found.settled == found.expected({"all"}, {host})
    here = {host} & set(found.groups["celery_workers"])
    assert found.hosts("rolling_restart", phase="restart") == here
    # The lease and the record of commands are on the same host as always.
    assert found.hosts("run_lease") == {"redis1"}
    others = {call["host"] for call in found.calls} - {host}
    assert {call["action"] for call in found.calls if call["host"] in others} <= {
        "run_lease",
        "release_commands",
    }
    # Earlier processes may run on the hosts that are left out.
    assert [call["args"] for call in found.calls if call["args"].get("finish")] == []


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["", "control1"])
def test_a_web_process_restarts_when_the_one_before_it_answers(
    walk: Any, tmp_path: Path, silent: str
) -> None:
    more = tmp_path / "more.yml"
    more.write_text("celery_producers: {hosts: {worker1: {}}}\n")
    found: Walk = walk(f"--inventory={more}", DUE="celery_producer", SILENT=silent)
    turns = [
        (call["host"], call["action"])
        for call in found.calls
        if call["part"] == "celery_producer" or call["args"].get("required")
    ]
    first, second = (
        [(host, "reconcile"), (host, "wait_for_services")] for host in ("control1", "worker1")
    )
    if silent:
        assert found.done.returncode == 2
        assert turns == first
        assert not found.hosts("send_canaries")
    else:
        ended_well(found)
        assert turns in (first + second, second + first)
    units = [call["args"]["units"] for call in found.calls if call["args"].get("required")]
    assert units == [["flexiprice-web.service"]] * len(units)


TAGS = sorted({tag for part in PARTS for tag in part.tags} - {"always"})


@pytest.mark.long
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_does_its_parts_and_no_other(walk: Any, tag: str) -> None:
    found: Walk = walk(f"--tags={tag}")
    ended_well(found)
    assert found.settled == found.expected({tag}, set(found.groups["fleet"]))
    names = {part.name for part in parts_in({tag}, ())}
    assert bool(found.hosts("rolling_restart", phase="restart")) == ("celery_worker" in names)
    # Flower and the operator's command have separate releases.
    releases = {str(call["args"]["root"]) for call in found.calls if call["action"] == "release"}
    assert ("/opt/flexiprice" in releases) == ("celery_release" in names)
    assert ("/opt/flexiprice/flower" in releases) == ("flower" in names)
    assert bool(found.hosts("send_canaries")) == (tag in ("deploy", "configure"))


@pytest.mark.slow
def test_a_run_of_verify_takes_no_lease_and_changes_nothing(walk: Any) -> None:
    # There is no plan to confirm, and nothing to tell others of.
    found: Walk = walk("--tags=verify", "-e", '{"fleet_confirm": true, "fleet_notify": ["false"]}')
    ended_well(found)
    assert {call["action"] for call in found.calls} == LOOKING - {"host_plan"}
    assert found.hosts("wait_for_services") == set(found.groups["fleet"])


@pytest.mark.long
def test_a_limit_and_a_tag_can_be_combined(walk: Any) -> None:
    found: Walk = walk("--limit=worker2,control1", "--tags=celery_beat,flower")
    ended_well(found)
    assert found.settled == found.expected({"celery_beat", "flower"}, {"worker2", "control1"})


@pytest.mark.slow
def test_a_plan_that_was_not_approved_changes_nothing(walk: Any, tmp_path: Path) -> None:
    approved = tmp_path / "approved.json"
    approved.write_text(json.dumps(Plan([], []).as_dict()))
    found: Walk = walk(f"--extra-vars=fleet_plan_approved={approved}")
    assert found.done.returncode == 2
    assert "fleet_plan_approved: this is not the plan that was approved" in found.done.stdout
    acting = {call["action"] for call in found.calls if call["args"].get("do") != "look"}
    assert acting <= LOOKING | {"run_lease", "database_schedule"}


@pytest.mark.slow
def test_no_process_changes_if_the_hosts_got_different_packages(walk: Any) -> None:
    found: Walk = walk(NEWER="worker2")
    assert found.done.returncode == 2
    told = " ".join(found.done.stdout.split())
    assert "would run different packages: shop is 1.0 on worker1 and 1.1 on worker2." in told
    assert found.hosts("rolling_restart", phase="restart") == set()
    assert found.recorded == set()


@pytest.mark.long
@pytest.mark.parametrize("enabled", [True, False])
def test_a_program_is_notified_of_the_run(walk: Any, tmp_path: Path, enabled: bool) -> None:
    kept = tmp_path / "kept"
    variables = {"fleet_notify": ["/bin/sh", "-c", 'cat >> "$0"; echo >> "$0"', str(kept)]}
    environment = {} if enabled else {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer"}
    found: Walk = walk(f"--extra-vars={json.dumps(variables)}", **environment)
    if enabled:
        ended_well(found)
        start, end = (json.loads(line) for line in kept.read_text().splitlines())
        assert (start["event"], end["event"]) == ("start", "success")
        assert start["app"] == "flexiprice"
        assert set(start["hosts"]) == set(found.groups["fleet"])
        assert start["items"]
    else:
        assert found.done.returncode == 2
        assert "fleet_notify needs `callbacks_enabled" in found.done.stdout
        assert not kept.exists()
        assert found.settled == {}


@pytest.mark.long
def test_a_dry_run_sends_no_notification(walk: Any, tmp_path: Path) -> None:
    variables = {"fleet_notify": ["/usr/bin/touch", str(tmp_path / "kept")]}
    walk("--check", f"--extra-vars={json.dumps(variables)}")
    assert not (tmp_path / "kept").exists()
