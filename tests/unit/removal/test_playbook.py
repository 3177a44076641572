"""playbooks/remove_fleet.yml in real runs: the order of steps on hosts, and the questions before them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.look import Footprint
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.stop import STAGES
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.renamed import (
    VARIABLES,
)

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible

pytestmark = pytest.mark.slow
HOSTS = ("redis1", "worker1")
STUBS = Path(__file__).with_name("action")
COUNTED: dict[str, Any] = {"state": "counted", "waiting": 0, "held": 0, "dead": 0, "queues": {}}
WAITING = {**COUNTED, "waiting": 2, "queues": {"mails": 2}}


@dataclass
class Ended:
    """How a run ended, and the commands to the hosts."""

    status: int
    text: str
    told: list[str] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        """Return the lines with this word."""
        return [line for line in self.told if word in line.split()]


@dataclass
class Ground:
    """Two hosts whose answers the test sets."""

    directory: Path
    facts: dict[str, Any]
    found: dict[str, Any]
    messages: dict[str, Any] = field(default_factory=lambda: dict(COUNTED))

    def run(self, *arguments: str, answer: str = "shop") -> Ended:
        """Run the playbook; `answer` is given beforehand, as there is no terminal."""
        shared = {
            "ansible_connection": "local",
            "ansible_become": False,
            "celery_app_name": "shop",
            "celery_app_inventory_name": "production",
        }
        inventory = {
            "all": {"vars": shared},
            "fleet": {
                "children": {
                    "redis": {"hosts": {"redis1": {}}},
                    "celery_workers": {"hosts": {"worker1": {}}},
                }
            },
        }
        (self.directory / "hosts.yml").write_text(json.dumps(inventory))
        answers = {"facts": self.facts, "found": self.found, "messages": self.messages}
        (self.directory / "answers.json").write_text(json.dumps(answers))
        told = self.directory / "told"
        told.write_text("")
        done = ansible(
            "ansible-playbook",
            f"--inventory={self.directory}/hosts.yml",
            *(["-e", f"fleet_remove_confirm={answer}"] if answer else []),
            *arguments,
            "celery_fleet.core.remove_fleet",
            ANSIBLE_COLLECTIONS_PATH=replaced(self.directory, actions=STUBS.glob("*.py")),
            PYTHONPATH=str(ROOT),
            REMOVAL_ANSWERS=str(self.directory / "answers.json"),
            REMOVAL_TOLD=str(told),
        )
        text = " ".join((done.stdout + done.stderr).split())
        return Ended(done.returncode, text, told.read_text().splitlines())


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    mark = {"app": "shop", "owner": "production", "path": "/etc/celery-fleet/shop/fleet.json"}
    facts = {host: {"reachable": True, "reason": "", "uid": 0, "marks": [mark]} for host in HOSTS}
    found = {host: Footprint(present=True, owner="production").as_dict() for host in HOSTS}
    found["redis1"]["messages"] = dict(COUNTED)
    return Ground(tmp_path, facts, found)


def test_each_stage_ends_on_all_hosts_before_the_next_and_the_lease_covers_all(
    ground: Ground,
) -> None:
    run = ground.run()
    assert run.status == 0, run.text
    assert [" ".join(line.split()[1:]) for line in run.of("stop")] == [
        f"stop {stage}" for stage in STAGES for _ in HOSTS
    ]
    steps = [word for word in run.told if not word.startswith("worker1")]
    assert steps == [
        "lease present redis1",
        "redis1 look",
        *(f"redis1 stop {stage}" for stage in STAGES[:5]),
        "redis1 messages",
        "redis1 record",
        *(f"redis1 stop {stage}" for stage in STAGES[5:]),
        "redis1 remove",
        "lease absent redis1",
        "redis1 finish",
    ]
    assert "shop is gone from redis1, worker1" in run.text


@pytest.mark.parametrize("answer", ["", pytest.param("another", marks=pytest.mark.long)])
def test_without_the_name_nothing_is_changed(ground: Ground, answer: str) -> None:
    run = ground.run(answer=answer)
    assert run.status != 0
    assert "Nothing was changed: the answer was not shop" in run.text
    assert {line.split()[1] for line in run.told if not line.startswith("lease")} == {"look"}


def test_a_dry_run_only_reads_and_asks_nothing(ground: Ground) -> None:
    path = ground.directory / "plan.json"
    # A file's name could hide lines of the plan on a terminal.
    ground.found["redis1"]["stay"] = {"/srv/up/\x1b[2K": "it is not ours"}
    run = ground.run("--check", "-e", f"fleet_plan_json={path}", answer="")
    assert run.status == 0, run.text
    assert sorted(run.told) == ["redis1 look", "worker1 look"]
    assert json.loads(path.read_text())["hosts"]["redis1"]["present"] is True
    assert "/srv/up/\N{REPLACEMENT CHARACTER}[2K" in run.text


@pytest.mark.long
def test_a_redis_on_a_host_that_has_left_its_group_is_counted_as_well(ground: Ground) -> None:
    ground.found["worker1"]["messages"] = dict(COUNTED)
    run = ground.run()
    assert run.status == 0, run.text
    assert sorted(run.of("messages")) == ["redis1 messages", "worker1 messages"]
    assert sorted(run.of("record")) == ["redis1 record", "worker1 record"]


def test_waiting_messages_end_the_run_at_the_beginning(ground: Ground) -> None:
    ground.found["redis1"]["messages"] = WAITING
    run = ground.run()
    assert run.status != 0
    assert "Redis on redis1 holds 2 messages that wait (mails 2)" in run.text
    assert run.of("stop") == []


def test_messages_that_were_handed_back_end_the_run_with_redis_up(ground: Ground) -> None:
    ground.messages = WAITING
    run = ground.run()
    assert run.status != 0
    assert "fleet_remove_discard_messages=true" in run.text
    assert [line for line in run.of("stop") if line.endswith((" redis", " rest"))] == []
    assert run.of("remove") == []


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("fleet_remove_discard_messages=true", ["redis1 record"]),
        # Nothing was decided about them, so another removal must not take them for given up.
        ('{"fleet_remove_keep": ["redis_data"]}', []),
    ],
)
def test_messages_may_be_given_up_or_kept(ground: Ground, given: str, recorded: list[str]) -> None:
    ground.found["redis1"]["messages"] = ground.messages = WAITING
    run = ground.run("-e", given)
    assert run.status == 0, run.text
    assert len(run.of("remove")) == 2
    assert run.of("record") == recorded


def test_refusals_come_before_anything_else(ground: Ground) -> None:
    ground.facts["redis1"]["marks"][0] = {**ground.facts["redis1"]["marks"][0], "owner": "staging"}
    ground.facts["worker1"] = {"reachable": False, "reason": "timed out"}
    run = ground.run("-e", '{"fleet_remove_keep": ["all"]}')
    assert run.status != 0
    for words in (
        "celery_app_inventory_name=staging",
        "worker1 can't be reached (timed out)",
        "can be kept",
    ):
        assert words in run.text
    assert run.told == []


@pytest.mark.long
def test_an_old_name_is_refused_with_the_new_one(ground: Ground) -> None:
    old = next(name for name in VARIABLES if name.startswith("fleet_remove_"))
    run = ground.run("-e", f"{old}=true")
    assert run.status != 0
    assert f"{old} is called {VARIABLES[old]} now" in run.text
    assert run.told == []


def test_a_host_that_is_down_is_named_and_can_be_left_out(ground: Ground) -> None:
    ground.facts["worker1"] = {"reachable": False, "reason": "timed out"}
    run = ground.run("-e", "fleet_remove_ignore_unreachable=true")
    assert run.status != 0
    assert "worker1 could not be reached and may still have shop" in run.text
    assert [line for line in run.told if line.startswith("worker1")] == []
    assert run.of("remove") == ["redis1 remove"]


@pytest.mark.long
def test_without_the_host_of_the_lease_the_others_are_removed_as_well(ground: Ground) -> None:
    ground.facts["redis1"] = {"reachable": False, "reason": "timed out"}
    run = ground.run("-e", "fleet_remove_ignore_unreachable=true")
    assert run.of("lease") == []
    assert run.of("remove") == ["worker1 remove"]
    assert "redis1 could not be reached" in run.text


@pytest.mark.long
def test_without_an_application_no_lease_is_taken(ground: Ground) -> None:
    for host in HOSTS:
        ground.facts[host]["marks"] = []
        ground.found[host] = Footprint().as_dict()
    run = ground.run(answer="")
    assert run.status == 0, run.text
    assert "shop is on none of 2 hosts" in run.text
    assert sorted(run.told) == ["redis1 finish", "redis1 look", "worker1 finish", "worker1 look"]


def test_a_worker_host_can_be_removed_by_itself_and_a_redis_host_cannot(ground: Ground) -> None:
    run = ground.run("--limit=worker1")
    assert run.status == 0, run.text
    assert run.of("remove") == ["worker1 remove"]
    assert "out of the inventory as well" in run.text
    run = ground.run("--limit=redis1")
    assert run.status != 0
    assert "leaves worker1, which need it" in run.text
    assert run.told == []


def test_a_running_command_ends_the_run(ground: Ground) -> None:
    ground.found["worker1"]["busy"] = ["shop-exec-1.service"]
    run = ground.run()
    assert run.status != 0
    assert "worker1: shop-exec-1.service runs" in run.text
    assert run.of("stop") == []
