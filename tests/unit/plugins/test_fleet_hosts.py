"""The lookup `fleet_hosts`, which plays use to choose their hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# The host `redis` is in one of the application's groups, and the group `redis` is missing.
INVENTORY = """
fleet:
  hosts: {one: {}, two: {}}
celery_workers:
  hosts: {one: {}}
flower: {}
others:
  hosts: {redis: {}}
"""

PLAYS = """
- hosts: all
  gather_facts: false
- hosts: "{{{{ lookup('celery_fleet.core.fleet_hosts', {groups}) }}}}"
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {{msg: "plays on {{{{ inventory_hostname }}}}"}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "hosts"),
    [
        pytest.param("'fleet'", {"one", "two"}, id="present"),
        pytest.param("'redis'", set(), id="missing"),
        pytest.param("'flower'", set(), id="empty"),
        pytest.param("'redis', 'celery_workers'", {"one"}, id="one of two is missing"),
    ],
)
def test_a_play_has_no_host_of_a_missing_group_and_ansible_does_not_warn(
    groups: str, hosts: set[str], tmp_path: Path
) -> None:
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "plays.yml").write_text(PLAYS.format(groups=groups))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={tmp_path}/hosts.yml",
            str(tmp_path / "plays.yml"),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert {name for name in ("one", "two", "redis") if f"plays on {name}" in output} == hosts
    assert "[WARNING]" not in output
