"""An older fleet is upgraded to this tree under load, goes back, and is upgraded again by a run that is killed.

Tests run in the order of this file: each continues with the fleet of the previous one, and the last one removes it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.renamed import (
    VARIABLES,
)
from faults import REDIS_RESTARTED
from ground import (
    FLEET,
    Case,
    Ground,
    end_of,
    kill,
    playbook,
)
from support import plays, units
from support.change import Done, Fleets
from support.inventory import ROOT, Fleet
from support.waiting import wait_for
from versions import (
    OLDER_INVENTORY,
    belongings,
    firewall_table,
    firewall_unit,
    newer_runtime,
    older_runtime,
    older_tree,
    processes,
    runtimes,
    sending_by,
    wait_until_up,
)

from scripts.restarts import judge
from scripts.restarts.record import RecordMark
from scripts.restarts.summary import RestartSummary

LONGEST = 1800.0  # maximum seconds of load: an upgrade builds virtualenvs and restarts everything
REST = 420.0  # seconds after the load: messages that an older worker leaves come back after its visibility timeout
AWAY = 30.0  # maximum seconds between two pulses of beat if it restarts in between
MOST_SENT_TWICE = 2  # tasks that the sender may send again in one run
INTERVAL = 2.0  # seconds between two pulses of beat, in the inventory

PULSES: list[float] = []  # during the upgrade


def taken_back() -> str:
    """Return what docs/upgrading.md tells operators to undo with the new version before they go back."""
    page = (ROOT / "docs/upgrading.md").read_text()
    found = re.search(
        r"^    ansible-playbook \S.* site\.yml \\\n +-e '(\{.*\})'$", page, re.MULTILINE
    )
    assert found is not None, "the page has no such command"
    undone = json.loads(found[1])
    # In this scenario all of them are on, so that there is something to undo.
    assert set(undone) == {"celery_app_delivery", "celery_health_enabled", "firewall_enabled"}
    return found[1]


@contextmanager
def noting_restarts(ground: Ground, case: Case) -> Iterator[None]:
    """Note when Redis last restarted in the block, if it did. systemd tells it in whole seconds."""
    began = math.floor(time.time())
    yield
    host, app = ground.fleet.one("redis"), ground.fleet.of("redis")["celery_app_name"]
    for kind in ("broker", "results"):
        unit = f"redis@{app}-{kind}.service"
        stopped, started = (moment(ground.fleet, host, unit, name) for name in ("Exit", "Enter"))
        if stopped >= began:
            case.marks.append(RecordMark(stopped, REDIS_RESTARTED, until=started))


def moment(fleet: Fleet, host: str, unit: str, name: str) -> float:
    """Return when a unit last began (`Enter`) or ceased (`Exit`) to be active; 0 if never."""
    asked = f"systemctl show --timestamp=unix --value --property=Active{name}Timestamp {unit}"
    text = fleet.must(host, asked).strip()
    return float(text.removeprefix("@")) if text.startswith("@") else 0.0


def deploy(case: Case, *arguments: str, root: Path = ROOT, sources: Sequence[str] = ()) -> None:
    """Run a version's site.yml, which must succeed."""
    with playbook(*arguments, "site.yml", log=case.log, root=root, sources=sources) as process:
        assert process.wait() == 0, end_of(case.log)


def pulses(ground: Ground, began: float, ended: float) -> list[float]:
    """Return when tasks from beat ran; the load's tasks have the name of their run before a dot."""
    text = (
        "SELECT started FROM runs WHERE strpos(task, '.') = 0"
        " AND started BETWEEN :began::float8 AND :ended::float8 ORDER BY started"
    )
    return [float(line) for line in ground.ask(text, began=began, ended=ended).split()]


def assert_delivered_once(summary: RestartSummary) -> None:
    """Check that nothing is lost, refused or run twice, except what was sent again while Redis restarted.

    Senders go on then. One that loses its connection while it waits for an answer does not know whether Redis has the
    task.
    """
    assert (summary.lost, summary.lost_causes, summary.refused) == (0, {}, 0)
    assert summary.doubled_causes.keys() <= {judge.was_sent_twice(REDIS_RESTARTED)}
    assert summary.doubled <= MOST_SENT_TWICE


# Session scope, because tests of the standing fleet come between those of this module, and would end a shorter one.
@pytest.fixture(scope="session")
def older(fleet: Fleet) -> str:
    """Return the runtime of the version that is upgraded."""
    return older_runtime(fleet)


def test_the_fleet_runs_the_older_version(fleet: Fleet, older: str) -> None:
    wait_until_up(fleet, 30)
    assert runtimes(fleet) == {older}
    assert older != newer_runtime(fleet)


def test_old_names_are_refused_with_the_new_ones(fleet: Fleet, older: str) -> None:
    path = ROOT / OLDER_INVENTORY / "group_vars/all/names.yml"
    given = [name for name in yaml.safe_load(path.read_text()) if not name.startswith("_")]
    refused = plays.play(replace(fleet, sources=(OLDER_INVENTORY,)), "old-names")
    assert refused.status != 0
    assert given
    for name in given:
        assert f"rename it to {VARIABLES[name]}" in refused.text, refused.end
    assert runtimes(fleet) == {older}


@pytest.fixture(scope="session")
def planned(changes: Fleets, older: str) -> Done:
    """Return the plan that an operator reads before the upgrade."""
    assert older
    return changes.plan("upgrade-plan")


def test_plan_says_why_each_process_restarts(fleet: Fleet, planned: Done) -> None:
    restarts = {item.unit: item.why for item in planned.items if item.action == "restart"}
    for unit in processes(fleet):
        assert unit in restarts
        assert any("runtime" in why for why in restarts[unit]), restarts[unit]


def test_plan_changes_nothing(fleet: Fleet, planned: Done, older: str) -> None:
    assert not any(planned.run.changed.values())
    assert runtimes(fleet) == {older}


@pytest.fixture(scope="session")
def upgraded(ground: Ground, planned: Done, older: str) -> RestartSummary:
    """Upgrade under load; the sender runs with the older runtime until the end."""
    assert planned.items

    def act(case: Case) -> None:
        began = time.time()
        with noting_restarts(ground, case):
            deploy(case)
        PULSES.extend(pulses(ground, began, time.time()))

    with sending_by(ground, older):
        return ground.measure("upgrade", FLEET, act, rest=REST, longest=LONGEST)


def test_upgrade_loses_nothing_and_doubles_nothing(upgraded: RestartSummary) -> None:
    assert_delivered_once(upgraded)
    assert upgraded.sent > 300


def test_upgrade_keeps_half_of_each_queue_consuming(
    ground: Ground, upgraded: RestartSummary
) -> None:
    rules = ground.rules()
    for queue, capacity in rules.capacity.items():
        assert upgraded.fewest[queue] >= math.ceil(capacity * rules.minimum), upgraded.fewest


def test_beat_is_only_away_for_moments_and_never_runs_twice(upgraded: RestartSummary) -> None:
    assert upgraded.sent
    assert max(later - one for one, later in pairwise(PULSES)) < AWAY
    assert len(PULSES) <= (PULSES[-1] - PULSES[0]) / INTERVAL + 3


def test_all_processes_run_this_version(fleet: Fleet, upgraded: RestartSummary) -> None:
    assert upgraded.sent
    units.wait_until_up(fleet, 30)
    assert runtimes(fleet) == {newer_runtime(fleet)}


def test_upgrade_puts_the_firewall_up(fleet: Fleet, upgraded: RestartSummary) -> None:
    """Otherwise the way back would have none to remove."""
    assert upgraded.sent
    name, unit = fleet.one("redis"), firewall_unit(fleet)
    assert units.state(fleet, name, unit)["ActiveState"] == "active"
    assert firewall_table(fleet) in fleet.must(name, ["nft", "list", "tables"])


def test_second_run_changes_nothing(
    changes: Fleets, fleet: Fleet, upgraded: RestartSummary
) -> None:
    assert upgraded.sent
    before = changes.pids()
    again = changes.site("upgrade-again")
    assert again.run.status == 0, again.run.end
    assert again.items == []
    assert not any(again.run.changed.values())
    assert changes.pids() == before


@pytest.fixture(scope="session")
def gone_back(ground: Ground, fleet: Fleet, upgraded: RestartSummary, older: str) -> RestartSummary:
    """Go back as docs/upgrading.md says: first deploy this version without what the older one does not know."""
    assert upgraded.sent

    def act(case: Case) -> None:
        with noting_restarts(ground, case):
            deploy(case, "-e", taken_back())
        with noting_restarts(ground, case):
            deploy(case, root=older_tree(fleet), sources=(OLDER_INVENTORY,))

    return ground.measure("back", FLEET, act, rest=REST, longest=LONGEST)


def test_going_back_loses_nothing_and_doubles_nothing(gone_back: RestartSummary) -> None:
    assert_delivered_once(gone_back)


def test_older_version_runs_again(fleet: Fleet, gone_back: RestartSummary, older: str) -> None:
    assert gone_back.sent
    wait_until_up(fleet, 30)
    assert runtimes(fleet) == {older}


def test_nothing_of_this_version_runs_after_going_back(
    fleet: Fleet, gone_back: RestartSummary
) -> None:
    assert gone_back.sent
    timer = f"{fleet.of('fleet')['celery_app_name']}-health.timer"
    for name in fleet.hosts("fleet"):
        assert units.state(fleet, name, timer)["LoadState"] == "not-found"
        assert units.state(fleet, name, firewall_unit(fleet))["LoadState"] == "not-found"
        assert units.failed(fleet, name) == []
    assert firewall_table(fleet) not in fleet.must(fleet.one("redis"), ["nft", "list", "tables"])


@pytest.fixture(scope="session")
def killed(ground: Ground, fleet: Fleet, gone_back: RestartSummary) -> RestartSummary:
    """Upgrade again: kill the run while workers restart, then run the same command again."""
    assert gone_back.sent

    def act(case: Case) -> None:
        since = time.time()
        with noting_restarts(ground, case), playbook("site.yml", log=case.log) as process:
            wait_for(
                "the second worker's turn begins",
                LONGEST / 2,
                lambda: len(ground.left(since)) >= 2 or process.poll() is not None,
            )
            assert process.poll() is None, end_of(case.log)
            kill(process)
        assert len(runtimes(fleet)) == 2, "it was no upgrade that was killed in the middle"
        with noting_restarts(ground, case):
            deploy(case)

    return ground.measure("killed", FLEET, act, rest=REST, longest=LONGEST)


def test_killed_upgrade_is_finished_by_the_next_run(
    changes: Fleets, fleet: Fleet, killed: RestartSummary
) -> None:
    assert_delivered_once(killed)
    units.wait_until_up(fleet, 30)
    assert runtimes(fleet) == {newer_runtime(fleet)}
    assert changes.plan("killed-after").items == []


@pytest.mark.stage(5)
def test_a_removal_removes_what_both_versions_have_written(fleet: Fleet) -> None:
    """This version has to know the names of everything that only the older one puts on a host."""
    assert older_runtime(fleet)
    assert runtimes(fleet) == {newer_runtime(fleet)}
    app = fleet.of("fleet")["celery_app_name"]
    assert all(belongings(fleet, name) for name in fleet.hosts("fleet"))
    # A task from beat may wait in the queue.
    answer = ("-e", f"fleet_remove_confirm={app}", "-e", "fleet_remove_discard_messages=true")
    removed = plays.play(fleet, "removal", *answer, playbook="playbooks/remove_fleet.yml")
    assert removed.status == 0, removed.end
    left = {name: belongings(fleet, name) for name in fleet.hosts("fleet")}
    assert not any(left.values()), left
    assert firewall_table(fleet) not in fleet.must(fleet.one("redis"), ["nft", "list", "tables"])
