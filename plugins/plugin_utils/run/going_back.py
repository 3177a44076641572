"""Says what `rollback_app.yml` leaves out of a plan: it carries out only the second half of `site.yml`."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.left_queues import (
    TASKS_WAIT,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    STILL_ALLOWED,
)

from .plan import PlanItem, subject

# The runtime and Redis, without which processes do not start with what the inventory says now.
_NEEDED = ("celery_runtime", "redis")
# A release that a host has, but that no longer works there: the host has another Python since an upgrade.
_BUILD = ("celery_release", "build")
# Other parts before the workers.
_LATER = ("fleet", "pki", "firewall", "celery_cli")


def refusal(items: Iterable[PlanItem], release: str) -> str:
    """Return why the fleet can't go back before something else is done; empty if it can.

    Args:
        items: Items of the plan.
        release: Id of the release that it goes back to.
    """
    due = [
        item
        for item in items
        if (item.part in _NEEDED and not _is_for_the_end(item))
        or (item.part, item.action) == _BUILD
    ]
    if not due:
        return ""
    named = dict.fromkeys(f"{subject(item)} on {item.host}" for item in due)
    return (
        "the inventory, this collection or a host has changed since the last whole run, and going back does not carry "
        f"out these changes: {', '.join(named)}. Without them, no process would start. Nothing was changed. Check out "
        "what was deployed last and run the same command again; or run ansible-playbook celery_fleet.core.deploy_app "
        f"-e release={release}, which carries out everything."
    )


def notes(items: Iterable[PlanItem]) -> list[str]:
    """Return which parts of the plan are left to the next run of `site.yml`."""
    found = {item.part for item in items}
    later = [part for part in _LATER if part in found]
    return [f"Not part of going back, and left to site.yml: {', '.join(later)}."] if later else []


def _is_for_the_end(item: PlanItem) -> bool:
    """Return whether all that is left to do for a Redis is what the end of a run does."""
    return bool(item.why) and all(why.endswith((STILL_ALLOWED, TASKS_WAIT)) for why in item.why)
