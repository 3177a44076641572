"""Print when the entries of beat's schedule are due; runs in the release's Python with beat's settings.

    python -m celery_fleet.beat.due [--count N] [--loaded /run/<app>-beat/schedule.json]

``CELERY_APP`` names the application. It is loaded as beat loads it, so the entries are beat's: the application's,
overridden by the inventory's. Each entry's own schedule class computes its due times, in the application's zone. An
interval counts from its last run, which only the running beat knows. ``--loaded`` names the file in which beat writes
what it has loaded.

Prints one line of JSON, ``{"ok", "error", "timezone", "entries"}``. An entry is ``{"name", "task", "queue", "schedule",
"due", "error"}``, a due time is ``{"local", "utc"}`` in ISO 8601.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_fleet.common.errors import one_line
from celery_fleet.common.own_output import own_output
from celery_fleet.common.redact import redact


def times(schedule: Any, start: datetime, first: datetime | None = None) -> Iterator[datetime]:
    """Yield the due times of a schedule after ``start``, in UTC.

    Args:
        schedule: One of Celery's schedules, of any class.
        start: The first moment, with a time zone.
        first: The first due time, if it is already known.
    """
    moment = start
    if first is not None and first > start:
        yield first.astimezone(UTC)
        moment = first.astimezone(start.tzinfo)
    while True:
        at = moment
        # This is Celery's own way to make a schedule believe that it is another time.
        schedule.nowfun = lambda at=at: at
        # Add in UTC: on a day with a clock change the zone's own hours don't add up.
        following = moment.astimezone(UTC) + schedule.remaining_estimate(moment)
        if following <= moment.astimezone(UTC):
            return
        yield following
        moment = following.astimezone(start.tzinfo)


def upcoming(
    schedule: Any, start: datetime, count: int, first: datetime | None = None
) -> list[dict[str, str]]:
    """Return the next ``count`` due times, in the zone of ``start`` and in UTC."""
    found: list[dict[str, str]] = []
    for moment in times(schedule, start, first):
        found.append(
            {
                "local": moment.astimezone(start.tzinfo).isoformat(timespec="seconds"),
                "utc": moment.isoformat(timespec="seconds"),
            }
        )
        if len(found) >= count:
            break
    return found


def known(path: str | None) -> dict[str, datetime]:
    """Return the next due times that the running beat has written; empty if none runs."""
    try:
        entries = json.loads(Path(path or "").read_text(encoding="utf-8"))["entries"]
        return {str(entry["name"]): datetime.fromisoformat(entry["due"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def load(module: str) -> Any:
    """Load the application as beat does."""
    from celery.app.utils import find_app

    from celery_fleet.compat import clock_changes

    clock_changes.install()
    app = find_app(module)
    app.set_current()
    app.loader.import_default_modules()
    app.finalize()
    return app


def entries(app: Any, count: int, loaded: Mapping[str, datetime]) -> list[dict[str, Any]]:
    """Return all entries of the application's schedule, the one due next first."""
    from celery.beat import Scheduler
    from celery.schedules import schedule as interval

    from celery_fleet.compat import beat

    # Use beat's own merging, without its schedule file.
    scheduler = Scheduler(app, lazy=True)
    scheduler.setup_schedule()
    start = app.now()
    found = []
    for name, entry in scheduler.schedule.items():
        view = beat.view_entry(app, entry)
        view.update(due=[], error=None)
        # An interval counts from its last run, so only the running beat knows when it is due.
        first = loaded.get(str(name)) if type(entry.schedule) is interval else None
        try:
            view["due"] = upcoming(entry.schedule, start, count, first)
        except Exception as exc:  # noqa: BLE001  # schedules are the application's own classes
            view["error"] = f"{type(exc).__name__}: {one_line(exc)}"
        found.append(view)
    return sorted(
        found, key=lambda view: (not view["due"], view["due"][:1] and view["due"][0]["utc"])
    )


def answer(count: int, loaded: str | None) -> dict[str, Any]:
    """Return the document to print."""
    module = os.environ.get("CELERY_APP", "")
    try:
        app = load(module)
        return {
            "ok": True,
            "error": None,
            "timezone": str(app.timezone),
            "entries": entries(app, count, known(loaded)),
        }
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # the application's code may do anything
        what = f"{type(exc).__name__}: {one_line(exc)}"
        return {"ok": False, "error": redact(f"application {module} can't be loaded: {what}")}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="celery_fleet.beat.due")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--loaded")
    given = parser.parse_args(argv)
    with own_output() as output:
        result = answer(given.count, given.loaded)
        print(json.dumps(result), file=output)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    # Threads that the application started must not keep the process alive.
    os._exit(main())
