"""Refuse a run after which a host of Redis that can't be reached would have other users than the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    STILL_ALLOWED,
)

from .plan import PlanItem, subject

# With more rights than the others, a host refuses no process.
_ENDS = (STILL_ALLOWED, " removed")


def refusal(items: Iterable[PlanItem], missing: Mapping[str, str], redis: Collection[str]) -> str:
    """Return why this run must not leave out hosts of Redis; empty if it may.

    Redis replicates no users. If such a host becomes the primary, it refuses new passwords, and workers that have a
    new queue among theirs.

    Args:
        items: Items of the plan.
        missing: Hosts that could not be reached, each with the reason.
        redis: The fleet's Redis hosts.
    """
    down = {host: reason for host, reason in missing.items() if host in redis}
    changes = dict.fromkeys(
        f"{subject(item)}: {why}"
        for item in items
        # Only the first host has the cache.
        if item.part == "redis" and not item.subject.endswith("-cache.service")
        for why in item.why
        if why.startswith("user ") and not why.endswith(_ENDS)
    )
    if not down or not changes:
        return ""
    names = ", ".join(down)
    return (
        f"Redis's users would change ({'; '.join(changes)}), but not on "
        f"{', '.join(f'{host} ({reason})' for host, reason in down.items())}. Redis may still run there, or start "
        "later: if it became the primary, it would refuse processes, and tasks could be lost. Nothing was changed. "
        f"Run the same command again once {names} can be reached; or replace what is lost: “Replacing a host” in "
        "docs/redis.md."
    )
