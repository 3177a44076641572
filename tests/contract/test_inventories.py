"""Preflight accepts the delivered inventories, or refuses only what a user has to fill in."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.render.fleet import (
    FILLED_IN,
    ROOT,
    ansible,
    copy_inventory,
    give_addresses,
)

PLAY = "- {hosts: fleet, gather_facts: false, tasks: [{celery_fleet.core.preflight_inventory: , run_once: true}]}\n"
# Inventories that `make new-env` has made in this checkout are left out; each of them has a .gitignore.
INVENTORIES = sorted(
    path.name
    for path in (ROOT / "inventories").iterdir()
    if path.is_dir() and not (path / ".gitignore").exists()
)
# The others are rendered whole in tests/render, which begins with preflight.
NOT_RENDERED = [name for name in INVENTORIES if name not in FILLED_IN]


def preflight(
    name: str, directory: Path, *, fill_in: bool = False
) -> subprocess.CompletedProcess[str]:
    play = directory / "play.yml"
    play.write_text(PLAY)
    inventory = copy_inventory(name, directory)
    if name not in TO_FILL_IN:
        give_addresses(inventory)
    elif fill_in:
        for path in inventory.rglob("*.yml"):
            path.write_text(
                re.sub(r"\bCHANGE_ME\b", lambda _: secrets.token_hex(24), path.read_text())
            )
    return ansible("ansible-playbook", f"--inventory={inventory}", str(play))


def placeholders(name: str) -> list[str]:
    """Return the last key of each secret that the inventory leaves to its user."""
    texts = [path.read_text() for path in (ROOT / "inventories" / name).rglob("*.yml")]
    return sorted(
        key for text in texts for key in re.findall(r"^ *(\w+): CHANGE_ME$", text, re.MULTILINE)
    )


# The others create their secrets in the first run.
TO_FILL_IN = [name for name in INVENTORIES if placeholders(name)]


def test_all_inventories_are_tested() -> None:
    assert {"local", "production", "staging"} <= set(INVENTORIES)
    assert TO_FILL_IN == ["production", "staging"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_FILL_IN)
def test_an_inventory_with_placeholders_is_refused_only_for_these(
    name: str, tmp_path: Path
) -> None:
    done = preflight(name, tmp_path)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    wanted = placeholders(name)
    # Ansible prints a message twice.
    found = set(re.findall(r"^ *\d+\. ([\w.]+) .*\n *(.*)$", output, re.MULTILINE))
    assert {reason for _, reason in found} == {"is a placeholder that has not been replaced"}
    assert len(found) == len(wanted)
    assert "No host was contacted" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*NOT_RENDERED, *TO_FILL_IN}))
def test_an_inventory_that_is_filled_in_is_accepted(name: str, tmp_path: Path) -> None:
    """Each placeholder is replaced with a secret, as a user would do."""
    done = preflight(name, tmp_path, fill_in=True)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def listed(name: str) -> dict[str, Any]:
    """Return an inventory as Ansible lists it."""
    done = ansible("ansible-inventory", f"--inventory={ROOT / 'inventories' / name}", "--list")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def members(name: str) -> dict[str, list[str]]:
    """Return hosts by group."""
    return {
        group: found.get("hosts", []) for group, found in listed(name).items() if group != "_meta"
    }


def variables(name: str, host: str) -> dict[str, Any]:
    found: dict[str, Any] = listed(name)["_meta"]["hostvars"][host]
    return found


@pytest.mark.slow
def test_staging_is_one_host_and_production_has_one_for_each_purpose() -> None:
    assert len({host for hosts in members("staging").values() for host in hosts}) == 1
    production = members("production")
    groups = ("redis", "celery_workers", "celery_beat", "celery_producers", "flower")
    hosts = [host for group in groups for host in production[group]]
    assert len(hosts) == len(set(hosts)), "two purposes share a host"
    assert len(production["celery_workers"]) >= 3
    assert len(production["celery_producers"]) >= 2
    # Also in what they run.
    enabled = {
        tuple(variables("production", host)["celery_worker_host_instances"])
        for host in production["celery_workers"]
    }
    assert len(enabled) > 1


@pytest.mark.slow
def test_in_production_a_queue_outlives_a_host() -> None:
    where: dict[str, list[str]] = {}
    for host in members("production")["celery_workers"]:
        for worker in variables("production", host)["celery_worker_host_instances"]:
            where.setdefault(worker, []).append(host)
    (host, *_) = where["discounts"]
    assert set(where) == set(variables("production", host)["celery_worker_instances"])
    assert all(len(hosts) >= 2 for hosts in where.values()), where


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_FILL_IN)
def test_hosts_are_reached_by_ssh_and_through_a_bastion_if_its_line_is_enabled(
    name: str, tmp_path: Path
) -> None:
    inventory = copy_inventory(name, tmp_path)
    path = inventory / "group_vars/all/fleet.yml"
    asked, bastion = re.subn(
        r"^# (ansible_ssh_common_args: )", r"\1", path.read_text(), flags=re.MULTILINE
    )
    assert bastion == 1
    path.write_text(asked)
    # The host does not exist, and SSH must not ask for a user.
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\nexit 255\n")
    program.chmod(0o755)
    options = ("-e", f"ansible_ssh_executable={program}", "-e", "ansible_ssh_retries=0")
    wanted = ("fleet", "--limit=fleet[0]", "--module-name=ansible.builtin.ping", "-vvv")
    done = ansible("ansible", f"--inventory={inventory}", *options, *wanted)
    called = [line for line in done.stdout.splitlines() if "SSH: EXEC" in line]
    assert called, done.stdout + done.stderr
    for line in called:
        assert "-o ProxyJump=deploy@bastion.example.com" in line
        assert 'User="deploy"' in line
