"""Read our playbooks, for the generated pages and for tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Prefix of a role's name.
COLLECTION = "celery_fleet.core."


@dataclass(frozen=True)
class Use:
    """How `site.yml` uses a role.

    Attributes:
        hosts: The play's host pattern.
        tags: The play's and the role's tags.
    """

    hosts: str
    tags: tuple[str, ...]

    @property
    def groups(self) -> str:
        """The groups of hosts in Markdown."""
        return ", ".join(f"`{group}`" for group in self.hosts.split(":"))


def plays(path: Path) -> list[dict[str, Any]]:
    """Return the plays of a playbook with those of the playbooks that it imports from ours, except preflight's."""
    found = []
    for play in yaml.load(path.read_text(), Loader=yaml.CSafeLoader):
        name = str(play.get("ansible.builtin.import_playbook", "")).removeprefix(COLLECTION)
        if name and name != "preflight":
            found += plays(path.with_name(f"{name}.yml"))
        else:
            found.append(play)
    return found


def texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return a tuple of texts, such as tags or the paragraphs of a description; it may be one text or a list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def uses(plays: Sequence[Mapping[str, Any]]) -> dict[str, Use]:
    """Return how a playbook's plays use roles, in their order."""
    found: dict[str, Use] = {}
    for play in plays:
        # The lookup `fleet_hosts` has its groups as arguments.
        hosts = str(play.get("hosts", ""))
        hosts = ":".join(re.findall(r", '(\w+)'", hosts)) or hosts
        for item in play.get("roles") or ():
            role = {"role": item} if isinstance(item, str) else item
            tags = (*texts(role.get("tags")), *texts(play.get("tags")))
            found.setdefault(
                role["role"].removeprefix(COLLECTION),
                Use(hosts, tuple(dict.fromkeys(tags))),
            )
    return found
