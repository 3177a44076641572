"""Says which schedules can't be kept in a database or on the broker, from a release's note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The options of an entry that are stored in django_celery_beat; the queue is a separate field in the note.
_OPTIONS = frozenset(
    {"exchange", "routing_key", "priority", "headers", "expires", "expire_seconds"}
)


def unstorable(
    identity: str, told: Mapping[str, Any], code: Mapping[str, Mapping[str, Any]], scheduler: str
) -> list[str]:
    """Return why a schedule can't be kept as the inventory says, each with what to do.

    Args:
        identity: Name of the release.
        told: What its note says of the application. An older note says nothing of schedulers.
        code: The entries of its code that count.
        scheduler: celery_beat_scheduler.
    """
    if scheduler == "database":
        why, place, wrong = told.get("no_database"), "the database", _in_database
    elif scheduler == "redbeat":
        why, place, wrong = told.get("no_redbeat"), "celery-redbeat", _with_redbeat
    else:
        return []
    found = []
    if why:
        found.append(
            f"celery_beat_scheduler is {scheduler}, but of release {identity} {why}. Or leave celery_beat_scheduler at "
            "persistent."
        )
    for name, entry in sorted(code.items()):
        what = wrong(entry)
        if what:
            found.append(
                f"beat_schedule of release {identity}, in its code: entry {name} has {' and '.join(what)}, which "
                f"{place} can't store. Change it there, or disable it with celery_beat_schedule: "
                f"{{{name}: {{enabled: false}}}}."
            )
    return found


def _in_database(entry: Mapping[str, Any]) -> list[str]:
    found = [f"an option {option}" for option in sorted(set(entry.get("options") or {}) - _OPTIONS)]
    if "custom" in entry:
        found.append(f"a schedule of its own class ({entry['custom']})")
    if entry.get("relative"):
        found.append("a relative interval")
    return found


def _with_redbeat(entry: Mapping[str, Any]) -> list[str]:
    if "custom" in entry:
        return [f"a schedule of its own class ({entry['custom']})"]
    return ["a solar schedule"] if entry.get("solar") is not None else []
