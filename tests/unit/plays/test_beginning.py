"""Real runs that skip the beginning, by `--start-at-task` or `--skip-tags`, are refused.

These are runs of the delivered playbooks with the demo's inventory, whose hosts don't answer. A task that contacted a
host would fail in another way than by the expected refusal.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from scripts import playbooks
from scripts.restarts import origin
from tests.render.fleet import ROOT, ansible, copy_inventory

# Preflight's plays, where a run may start at any task: they change nothing, and the lease needs all of them.
PREFLIGHT = len(playbooks.plays(ROOT / "playbooks/preflight.yml"))
REFUSED = "this run has skipped the first steps of every run"
REMOVAL = "remove_fleet.yml"
REMOVAL_REFUSED = "this run has skipped the first steps of a removal"
PLAYS = [
    (name, number)
    for name, plays in (
        (name, playbooks.plays(ROOT / "playbooks" / name))
        for name in (
            "site.yml",
            "restart_workers.yml",
            "plan.yml",
            "deploy_app.yml",
            "rollback_app.yml",
        )
    )
    # The first one imports preflight's plays.
    for number in range(PREFLIGHT, PREFLIGHT + len(plays) - 1)
]
HOSTS = ("redis1", "worker1", "worker2", "control1")
NOBODY = {
    "ansible_port": 1,
    "ansible_ssh_retries": 0,
    # If a run starts at the first task of a play, Ansible gathers facts, whatever the play says.
    "ansible_facts_modules": [],
}


def run(directory: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    inventory = directory / "local"
    if not inventory.exists():
        copy_inventory("local", directory)
        # Each host has its own address, because preflight refuses a machine with two names.
        hosts = {host: {"ansible_host": f"127.0.0.{n}"} for n, host in enumerate(HOSTS, 1)}
        nobody = {"all": {"hosts": hosts, "vars": NOBODY}}
        (inventory / "nobody.yml").write_text(json.dumps(nobody))
    playbook = f"playbooks/{name}"
    return ansible("ansible-playbook", f"--inventory={inventory}", *options, playbook)


@cache
def tasks(directory: Path, name: str) -> list[list[str]]:
    """Return the tasks of each play at which a run can start; Ansible takes the first of several with one name."""
    listed = run(directory, name, "--list-tasks").stdout
    seen: set[str] = set()
    found = []
    for text in re.split(r"^  play #\d+ ", listed, flags=re.MULTILINE)[1:]:
        names = [line.partition("\t")[0].strip() for line in text.splitlines()[2:]]
        fresh = [task for task in dict.fromkeys(names) if task and task not in seen]
        seen.update(fresh)
        found.append(fresh)
    return found


def chosen(names: Sequence[str], name: str = "") -> list[str]:
    """Return the tasks of a play at which runs start: all in `make soak-long`, otherwise the first and the last.

    Most plays of the other playbooks are those of site.yml. Their last task is enough.
    """
    if origin.is_soak():
        return list(names)
    return list(
        names[-1:] if name in ("deploy_app.yml", "rollback_app.yml") else {*names[:1], *names[-1:]}
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beginning")


def is_refused(done: subprocess.CompletedProcess[str], words: str = REFUSED) -> None:
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    # Ansible wraps lines anywhere.
    assert words in " ".join(output.split()), output
    assert "Traceback" not in output
    assert set(re.findall(r"changed=(\d+) +unreachable=(\d+)", output)) == {("0", "0")}, output


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        pytest.param("celery_fleet.core.preflight : Check the hosts", marks=pytest.mark.long),
        "celery_fleet.core.fleet : lease | Take the lease of the fleet",
        pytest.param(
            "celery_fleet.core.fleet : Compare the host with the inventory", marks=pytest.mark.long
        ),
        pytest.param(
            "celery_fleet.core.celery_release : Build and check the release", marks=pytest.mark.long
        ),
        pytest.param(
            "celery_fleet.core.celery_restart : Restart workers that differ", marks=pytest.mark.long
        ),
        pytest.param("celery_fleet.core.verify : Wait for every service", marks=pytest.mark.long),
    ],
)
def test_a_run_that_is_started_later_is_refused(directory: Path, task: str) -> None:
    is_refused(run(directory, "site.yml", f"--start-at-task={task}"))


@pytest.mark.long
@pytest.mark.parametrize(("name", "number"), PLAYS)
def test_a_run_that_is_started_anywhere_in_a_play_is_refused(
    directory: Path, name: str, number: int
) -> None:
    plays = tasks(directory, name)
    assert len(plays) == len([one for one, _ in PLAYS if one == name]) + PREFLIGHT
    for task in chosen(plays[number], name):
        is_refused(run(directory, name, f"--start-at-task={task}"))


@pytest.mark.long
@pytest.mark.parametrize("number", range(PREFLIGHT))
def test_a_run_that_is_started_in_preflight_only_gets_to_the_hosts(
    directory: Path, number: int
) -> None:
    for task in chosen(tasks(directory, "site.yml")[number]):
        done = run(directory, "site.yml", f"--start-at-task={task}")
        output = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0
        assert "These hosts are refused" in output or REFUSED in output
        assert "TASK [celery_fleet.core.fleet : lease" not in output or REFUSED in output


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [("site.yml",), ("site.yml", "--check"), ("restart_workers.yml", "--limit=worker1")]
)
def test_a_run_without_the_tasks_that_always_run_is_refused(
    directory: Path, options: tuple[str, ...]
) -> None:
    is_refused(run(directory, options[0], "--skip-tags=always", *options[1:]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        pytest.param("lease | Take the lease of the fleet", marks=pytest.mark.long),
        pytest.param("plan | Show what would be removed", marks=pytest.mark.long),
        pytest.param("stop | Stop beat", marks=pytest.mark.long),
        "remove | Remove what was put there",
    ],
)
def test_a_removal_that_is_started_later_is_refused(directory: Path, task: str) -> None:
    is_refused(
        run(directory, REMOVAL, f"--start-at-task=celery_fleet.core.fleet_remove : {task}"),
        words=REMOVAL_REFUSED,
    )


@pytest.mark.long
def test_a_removal_that_is_started_anywhere_is_refused(directory: Path) -> None:
    # The first play only has Ansible read the inventory.
    (), (look, check, *others) = tasks(directory, REMOVAL)
    assert len(others) > 15
    for task in chosen(others):
        is_refused(run(directory, REMOVAL, f"--start-at-task={task}"), words=REMOVAL_REFUSED)
    for task in (look, check):
        # Started at the check itself, it finds no host that has answered.
        output = run(directory, REMOVAL, f"--start-at-task={task}").stdout
        assert "can't be reached" in " ".join(output.split())
