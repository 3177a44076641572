"""Real runs of the delivered playbooks, without hosts.

`stand_ins.py` replaces action plugins that would contact a host: it records each call with all rendered arguments.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import parts_in

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible, prepare
from tests.unit.plays.stand_ins import ANSWERS

STAND_INS = {
    f"plugins/action/{name}.py": Path(__file__).with_name("stand_ins.py") for name in ANSWERS
}
# The task that writes which release serves.
RECORD = "write | Write the record"
# Parts with their own tasks, which don't call `reconcile`.
BY_OTHERS = {"celery_release", "celery_release_commands", "celery_worker"}


@dataclass
class Walk:
    """A run: Ansible's output, and the calls in their order."""

    done: subprocess.CompletedProcess[str]
    calls: list[dict[str, Any]]
    groups: dict[str, list[str]]

    @property
    def settled(self) -> dict[str, set[str]]:
        """Return the hosts of each reconciled part; the record of the releases belongs to none."""
        found: dict[str, set[str]] = {}
        for call in self.calls:
            if call["action"] == "reconcile" and not call["args"].get("trial"):
                found.setdefault(call["part"], set()).add(call["host"])
        found.pop(None, None)
        return found

    @property
    def recorded(self) -> set[str]:
        """Return the hosts that got the record of the releases."""
        return {call["host"] for call in self.calls if call["task"].endswith(RECORD)}

    def hosts(self, action: str, **args: Any) -> set[str]:
        """Return the hosts for which a plugin was called with these arguments."""
        return {
            call["host"]
            for call in self.calls
            if call["action"] == action and args.items() <= call["args"].items()
        }

    def expected(self, tags: set[str], hosts: set[str]) -> dict[str, set[str]]:
        """Return for each part the hosts of its groups to which the run is limited."""
        found = {}
        for part in parts_in(tags, ()):
            members = {host for group in part.groups for host in self.groups[group]} & hosts
            # The link moves on hosts with a release; Ansible skips the play of a part without hosts.
            if members and part.name not in BY_OTHERS:
                found[part.name] = members
        return found


@pytest.fixture
def walk(tmp_path: Path) -> Any:
    def run(*options: str, playbook: str = "site", **environment: str) -> Walk:
        place = Path(tempfile.mkdtemp(dir=tmp_path))
        made = prepare("local", place, {"firewall_enabled": True})
        calls = place / "calls"
        calls.mkdir()
        done = ansible(
            "ansible-playbook",
            *made.options,
            # Modules run on this machine, where Ansible may find a `python3` that only starts another one.
            "--extra-vars=ansible_python_interpreter=/usr/bin/python3",
            *options,
            f"celery_fleet.core.{playbook}",
            ANSIBLE_COLLECTIONS_PATH=replaced(place, parts=STAND_INS),
            PYTHONPATH=str(ROOT),
            CALLS=str(calls),
            XDG_CACHE_HOME=str(place / "cache"),
            **environment,
        )
        ordered = sorted(calls.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        groups = yaml.safe_load((made.inventory / "hosts.yml").read_text())["fleet"]["children"]
        members = {group: list(found["hosts"]) for group, found in groups.items()}
        members["fleet"] = made.names
        return Walk(done, [json.loads(path.read_text()) for path in ordered], members)

    return run


def ended_well(found: Walk) -> None:
    output = found.done.stdout + found.done.stderr
    assert found.done.returncode == 0, output[-6000:]
    # Ansible's own modules run on this machine, which has no fleet.
    output = re.sub(r"\[WARNING\]: Skipped '/etc/celery-fleet/.*", "", output)
    assert "[WARNING]" not in output, output[-6000:]
