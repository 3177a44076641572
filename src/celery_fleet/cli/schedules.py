"""Ask the release's Python about beat's schedule, and show its times."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from celery_fleet.cli import ask
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError, need_root
from celery_fleet.cli.options import Context

#: Seconds that importing the application may take.
IMPORT = 30.0


def all_entries(
    context: Context, count: int, fired: Mapping[str, Sequence[float]] | None = None
) -> Mapping[str, Any]:
    """Return all entries, and for which slots they were sent at the times that are given (Unix time, by entry).

    Raises:
        CommandError: The release or the database does not answer.
    """
    application = context.application
    past = ["--fired", json.dumps(fired)] if fired else []
    if in_database(application):
        found = answer(context, "list", "--count", str(count), *past)
        for entry in found["entries"]:
            # Redis lets beat send only to the inventory's queues.
            if entry["enabled"] and entry["queue"] and entry["queue"] not in application.queues:
                entry["error"] = entry["error"] or f"the inventory has no queue {entry['queue']}"
    else:
        found = ask.in_release(
            application,
            "beat",
            [
                *("python", "-m", "celery_fleet.beat.due", *past),
                *("--state", str(application.schedule_state), "--count", str(count)),
                *("--loaded", str(application.schedule)),
            ],
            context.bound(IMPORT),
        )
        if not found["ok"]:
            raise CommandError(found["error"])
    return found


def in_database(application: Application) -> bool:
    """Return whether beat's schedule is in the application's database.

    Raises:
        CommandError: This host does not know, or this user may not read it.
    """
    path = application.directory / "credentials" / "beat.json"
    if os.geteuid() != 0:
        raise need_root(f"read {path}")
    if not path.is_file():
        hosts = ", ".join(application.in_group("celery_beat")) or "no host"
        raise CommandError(
            f"{application.host} has no settings of beat; run this on the host of beat: {hosts}"
        )
    return application.settings("beat").get("beat_scheduler") == "database"


def resets_edited(application: Application) -> bool:
    """Return whether writing the declared entries resets what users edited (celery_beat_schedule_on_edit).

    Raises:
        CommandError: As for `in_database`.
    """
    found = application.settings("schedule") if in_database(application) else {}
    return found.get("beat_schedule_on_edit") == "reset"


def answer(context: Context, *words: str) -> Mapping[str, Any]:
    """Run `celery_fleet.beat.database.program` and return its answer.

    Raises:
        CommandError: It could not be run, or refuses.
    """
    line = ["python", "-m", "celery_fleet.beat.database.program", *words]
    try:
        found = ask.in_release(context.application, "schedule", line, context.bound(IMPORT))
    except ask.LateError as error:
        look = f"{context.application.command} health --now"
        raise CommandError(f"{error.message}; the database may not answer: {look}") from None
    if not found["ok"]:
        if found.get("usage"):
            raise CommandError(str(found["error"]), USAGE)
        raise CommandError(str(found["error"]))
    return found


def zones_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the zones to show, each with its key in a time."""
    return {found["timezone"]: "local", "UTC": "utc"}


def text_of(time: Mapping[str, str] | None, name: str) -> str:
    """Return a time without the offset from UTC, because the column names the zone."""
    return "-" if time is None else time[name][:19].replace("T", " ")


def drift_of(of: Mapping[str, Any]) -> str:
    """Return the drift of an entry or of a run."""
    return "-" if of.get("drift") is None else f"{of['drift']:g} s"


def missed_of(of: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the number of missed slots, and whether that is well."""
    missed = of.get("missed")
    return ("-" if missed is None else str(missed), not missed)
