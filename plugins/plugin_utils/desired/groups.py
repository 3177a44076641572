"""Ansible's groups by the names that Celery Fleet uses; the variable `fleet_groups` gives them other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

FLEET: Final = "fleet"
MEMBER_GROUPS: Final = ("redis", "celery_workers", "celery_beat", "celery_producers", "flower")


def group_names(fleet_groups: object) -> dict[str, str]:
    """Return the inventory's name of each of our groups; preflight refuses what is ignored here."""
    given = fleet_groups if isinstance(fleet_groups, Mapping) else {}
    return {
        name: other if isinstance(other := given.get(name), str) and other else name
        for name in (FLEET, *MEMBER_GROUPS)
    }


def fleet_names(hostvars: Mapping[str, Any]) -> dict[str, str]:
    """Return `group_names` of the value that all hosts share, which is in the inventory's group `all`."""
    for host in hostvars:
        return group_names(hostvars[host].get("fleet_groups"))
    return group_names(None)


def fleet_groups(
    groups: Mapping[str, Sequence[str]], given: Mapping[str, Any] | None = None
) -> dict[str, list[str]]:
    """Return the hosts of each of our groups.

    Args:
        groups: Ansible's groups.
        given: The variable `fleet_groups`.
    """
    return {name: list(groups.get(other, ())) for name, other in group_names(given).items()}
