"""The installed collection in a separate project: every playbook by its full name, from inventories of every kind."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support import units
from support.inventory import ROOT, clean_environment
from support.plays import Run

if TYPE_CHECKING:
    from support.inventory import Fleet

# Tests run in the order of this file: each continues with the fleet that the previous one left.
pytestmark = pytest.mark.stage(6)
OVERLAY = ROOT / "molecule/collection/inventory"
SITE = "celery_fleet.core.site"


def play(
    fleet: Fleet, inventory: Path, playbook: str, *arguments: str, collections: str = "collections"
) -> Run:
    """Run a playbook of the collection in the project, without access to the checkout."""
    project = fleet.state / "project"
    configured = (project / "ansible.cfg").exists()
    done = subprocess.run(
        [
            "ansible-playbook",
            f"--inventory={inventory}",
            f"--inventory={OVERLAY}",
            *arguments,
            playbook,
        ],
        cwd=project,
        env={
            **clean_environment(),
            **({} if configured else {"ANSIBLE_COLLECTIONS_PATH": collections}),
            "ANSIBLE_VAULT_IDENTITY_LIST": "shop@inventories/shop/.vault-password",
            "ANSIBLE_NOCOLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr)


def ended_well(run: Run) -> None:
    assert run.status == 0, run.end
    # Ansible warns about the second inventory, because its hosts are the fleet's.
    assert "Traceback" not in run.text


def nothing_changed(fleet: Fleet, run: Run) -> None:
    ended_well(run)
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)


def groups(project: Path) -> dict[str, list[str]]:
    """Return the groups and their hosts in the environment that new_env made."""
    tree = yaml.safe_load((project / "inventories/shop/hosts.yml").read_text())
    return {name: list(group["hosts"]) for name, group in tree["fleet"]["children"].items()}


def beside(project: Path, name: str) -> Path:
    """Make a directory for an inventory of another kind, with the same name, variables and certificates.

    Hosts remember the name of the inventory's directory as their owner.
    """
    made = project / name / "shop"
    made.mkdir(parents=True)
    shutil.copytree(project / "inventories/shop/group_vars", made / "group_vars")
    shutil.copytree(project / "inventories/shop/pki", made / "pki")
    return made


def ini(project: Path) -> Path:
    """Write the environment as INI: groups, and variables on the hosts' lines."""
    made = beside(project, "as-ini")
    tree = yaml.safe_load((project / "inventories/shop/hosts.yml").read_text())
    own = tree["fleet"]["hosts"]
    lines = ["[all]"]
    lines += [
        " ".join(
            [
                host,
                *(f"{key}={shlex.quote(str(value))}" for key, value in (own[host] or {}).items()),
            ]
        )
        for host in own
    ]
    for group, hosts in groups(project).items():
        lines += [f"[{group}]", *hosts]
    lines += ["[fleet:children]", *groups(project)]
    (made / "hosts").write_text("\n".join(lines) + "\n")
    return made / "hosts"


def script(project: Path) -> Path:
    """Write the environment as a program that prints it."""
    made = beside(project, "as-program")
    tree = yaml.safe_load((project / "inventories/shop/hosts.yml").read_text())
    found: dict[str, Any] = {name: {"hosts": hosts} for name, hosts in groups(project).items()}
    found["fleet"] = {"children": list(found)}
    found["_meta"] = {"hostvars": {host: own or {} for host, own in tree["fleet"]["hosts"].items()}}
    program = made / "hosts"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(found)}\nEND\n")
    program.chmod(0o755)
    return program


def shop(project: Path) -> Path:
    return project / "inventories/shop"


def edit(inventory: Path, name: str, old: str, new: str) -> None:
    """Change a file of variables in an inventory."""
    directory = inventory if inventory.is_dir() else inventory.parent
    file = directory / "group_vars/all" / name
    text = file.read_text()
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new))


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    before = units.main_pids(fleet)
    nothing_changed(fleet, play(fleet, shop(fleet.state / "project"), SITE))
    assert units.main_pids(fleet) == before


@pytest.mark.parametrize("name", ["check_inventory", "preflight", "plan"])
def test_a_read_only_playbook_succeeds(fleet: Fleet, name: str) -> None:
    run = play(fleet, shop(fleet.state / "project"), f"celery_fleet.core.{name}")
    nothing_changed(fleet, run) if name != "check_inventory" else ended_well(run)


def test_a_refusal_reads_well_without_our_settings(fleet: Fleet) -> None:
    run = play(fleet, shop(fleet.state / "project"), SITE, "-e", "celery_worker_instance={}")
    assert run.status != 0
    assert "This inventory is refused, 1 error. No host was contacted." in run.text
    assert "did you mean celery_worker_instances?" in run.text
    assert "Traceback" not in run.text


@pytest.mark.parametrize("kind", [ini, script], ids=["ini", "program"])
def test_another_kind_of_inventory_is_the_same_fleet(
    fleet: Fleet, kind: Callable[[Path], Path]
) -> None:
    """A run finds nothing to do. After a change in this inventory, a run deploys the change."""
    project = fleet.state / "project"
    inventory = kind(project)
    before = units.main_pids(fleet)
    nothing_changed(fleet, play(fleet, inventory, SITE))
    assert units.main_pids(fleet) == before
    worker = f"{fleet.of('fleet')['celery_app_name']}-worker@discounts.service"
    host = next(host for host, unit in before if unit == worker)
    for processes in ("3", "2"):
        other = "2" if processes == "3" else "3"
        edit(inventory, "celery_worker.yml", f"concurrency: {other}", f"concurrency: {processes}")
        ended_well(play(fleet, inventory, SITE))
        pid = units.main_pids(fleet)[host, worker]
        words = fleet.must(host, f"cat /proc/{pid}/cmdline").split("\0")
        assert f"--concurrency={processes}" in words
    nothing_changed(fleet, play(fleet, shop(project), SITE))


def test_the_collection_from_git_is_the_same(fleet: Fleet) -> None:
    project = fleet.state / "project"
    address = f"git+file://{ROOT}"
    done = subprocess.run(
        ["ansible-galaxy", "collection", "install", address, "-p", "from-git"],
        cwd=project,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    nothing_changed(fleet, play(fleet, shop(project), SITE, collections="from-git"))


def test_the_ansible_cfg_that_new_env_made_works(fleet: Fleet) -> None:
    project = fleet.state / "project"
    made, used = project / "ansible.cfg.made", project / "ansible.cfg"
    made.rename(used)
    try:
        run = play(fleet, shop(project), SITE, "-e", "celery_worker_instance={}")
        # Our callback prints each refusal once.
        assert run.text.count("This inventory is refused") == 1
        nothing_changed(fleet, play(fleet, shop(project), SITE))
    finally:
        used.rename(made)


def test_workers_restart(fleet: Fleet) -> None:
    project = fleet.state / "project"
    assert not (project / "ansible.cfg").exists()
    before = units.main_pids(fleet)
    run = play(fleet, shop(project), "celery_fleet.core.restart_workers")
    ended_well(run)
    after = units.main_pids(fleet)
    restarted = {unit for unit, pid in before.items() if after[unit] != pid}
    assert restarted == {(host, unit) for host, unit in before if "-worker@" in unit}


def test_the_fleet_can_be_removed(fleet: Fleet) -> None:
    app = fleet.of("fleet")["celery_app_name"]
    project = fleet.state / "project"
    assert not (project / "ansible.cfg").exists()
    confirmed = ("-e", f"fleet_remove_confirm={app}")
    run = play(fleet, shop(project), "celery_fleet.core.remove_fleet", *confirmed)
    ended_well(run)
    for host in fleet.hosts():
        assert fleet.execute(host, f"ls -d /etc/celery-fleet/{app}").status != 0
