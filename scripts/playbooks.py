"""Read our playbooks, for the generated pages and for tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def plays(path: Path) -> list[dict[str, Any]]:
    """Return the plays of a playbook with those of the playbooks that it imports from ours, except preflight's."""
    found = []
    for play in yaml.safe_load(path.read_text()):
        name = str(play.get("ansible.builtin.import_playbook", "")).removeprefix(
            "celery_fleet.core."
        )
        if name and name != "preflight":
            found += plays(path.with_name(f"{name}.yml"))
        else:
            found.append(play)
    return found


def groups(play: Mapping[str, Any]) -> list[str]:
    """Return the groups of hosts on which a play acts: those of its lookup `fleet_hosts`, or of its own pattern."""
    hosts = str(play.get("hosts", ""))
    return re.findall(r", '(\w+)'", hosts) or hosts.split(":")
