"""Print when the entries of beat's schedule are due; runs in the release's Python with beat's settings.

    python -m celery_fleet.beat.due [--count N] [--loaded /run/<app>-beat/schedule.json] [--state FILE] [--fired JSON]

``CELERY_APP`` names the application. It is loaded as beat loads it, so the entries are beat's: the application's,
overridden by the inventory's. Each entry's own schedule class computes its due times, in the application's zone. An
interval counts from its last run, which only the running beat knows. ``--loaded`` names the file in which beat writes
what it has loaded, ``--state`` beat's own file, which is read if none runs. ``--fired`` is when entries were sent, as
``{name: [Unix time, …]}``.

Prints one line of JSON, ``{"ok", "error", "timezone", "entries", "history"}``. An entry is ``{"name", "task", "queue",
"schedule", "due", "last", "drift", "missed", "error"}``, a time is ``{"local", "utc"}`` in ISO 8601. ``history`` is
that of `celery_fleet.beat.slots.history`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from celery_fleet.beat import schedule_file, slots
from celery_fleet.common.answering import finish
from celery_fleet.common.errors import FleetError, error_text, one_line
from celery_fleet.common.redact import redact


class ScheduleAwayError(FleetError):
    """The broker has the schedule, and does not answer."""


def upcoming(
    schedule: Any, start: datetime, count: int, first: datetime | None = None
) -> list[dict[str, str]]:
    """Return the next ``count`` due times, in the zone of ``start`` and in UTC."""
    found: list[dict[str, str]] = []
    for moment in slots.times(schedule, start, first):
        found.append(slots.moment(moment, start.tzinfo))
        if len(found) >= count:
            break
    return found


def due_times(path: str | None) -> dict[str, datetime]:
    """Return the next due times that the running beat has written; empty if none runs, or another one sends."""
    try:
        return {str(one["name"]): datetime.fromisoformat(one["due"]) for one in _loaded(path)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _loaded(path: str | None) -> list[dict[str, Any]]:
    """Return the entries that the running beat has written; none if it stands by, as it does not know their runs."""
    found: dict[str, Any] = json.loads(Path(path or "").read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = found["entries"]
    return [] if found.get("stands_by") else entries


def last_runs(loaded: str | None, state: str | None) -> dict[str, tuple[datetime, bool]]:
    """Return the last run of each entry and whether there was one, from the running beat, or else from beat's own file.

    An entry that has not run yet has the time since which it exists. If another host's beat sends, nothing is known.
    """
    try:
        return {
            str(entry["name"]): (datetime.fromisoformat(entry["last"]), entry["runs"] > 0)
            for entry in _loaded(loaded)
            if entry["last"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from celery.utils.time import maybe_make_aware

    try:
        return {
            str(name): (maybe_make_aware(entry.last_run_at), entry.total_run_count > 0)
            for name, entry in schedule_file.read(Path(state or ""))["entries"].items()
        }
    except Exception:  # noqa: BLE001  # there is none, or it is damaged; beat then makes a new one
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


def schedule_of(app: Any) -> dict[str, Any]:
    """Return beat's own entries by name.

    Raises:
        ScheduleAwayError: The broker, which has the schedule, does not answer.
    """
    from celery.beat import Scheduler

    from celery_fleet.compat import redbeat

    if redbeat.is_used(app):
        try:
            return {str(entry.name): entry for _, entry in redbeat.events(app)}
        except redbeat.AWAY as exc:
            what = f"the broker, which has the schedule, does not answer: {error_text(exc)}"
            raise ScheduleAwayError(what) from exc
    # Use beat's own merging, without its schedule file.
    scheduler = Scheduler(app, lazy=True)
    scheduler.setup_schedule()
    found: dict[str, Any] = scheduler.schedule
    return found


def entries(
    app: Any,
    schedule: Mapping[str, Any],
    count: int,
    loaded: Mapping[str, datetime],
    last: Mapping[str, tuple[datetime, bool]] | None = None,
) -> list[dict[str, Any]]:
    """Return all entries of the schedule that `schedule_of` has found, the one due next first."""
    from celery.schedules import schedule as interval

    from celery_fleet.compat import beat

    start = app.now()
    found = []
    for name, entry in schedule.items():
        view = beat.view_entry(app, entry)
        ran, counted = (last or {}).get(str(name), (None, False))
        view.update(due=[], last=None, drift=None, missed=None, error=None)
        # An interval counts from its last run, so only the running beat knows when it is due.
        first = loaded.get(str(name)) if type(entry.schedule) is interval else None
        try:
            view.update(slots.compared(entry.schedule, app.timezone, ran, counted, start))
            view["due"] = upcoming(entry.schedule, start, count, first)
        except Exception as exc:  # noqa: BLE001  # schedules are the application's own classes
            view["error"] = f"{type(exc).__name__}: {one_line(exc)}"
        found.append(view)
    return sorted(
        found, key=lambda view: (not view["due"], view["due"][:1] and view["due"][0]["utc"])
    )


def answer(given: argparse.Namespace) -> dict[str, Any]:
    """Return the document to print."""
    module = os.environ.get("CELERY_APP", "")
    try:
        app = load(module)
        schedule = schedule_of(app)
        return {
            "ok": True,
            "error": None,
            "timezone": str(app.timezone),
            "entries": entries(
                app,
                schedule,
                given.count,
                due_times(given.loaded),
                last_runs(given.loaded, given.state),
            ),
            "history": slots.history(
                {str(name): entry.schedule for name, entry in schedule.items()}.__getitem__,
                app.timezone,
                json.loads(given.fired),
            ),
        }
    except ScheduleAwayError as exc:
        return {"ok": False, "error": str(exc)}
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # the application's code may do anything
        what = f"{type(exc).__name__}: {one_line(exc)}"
        return {"ok": False, "error": redact(f"application {module} can't be loaded: {what}")}


def main() -> NoReturn:
    """Print the answer; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="celery_fleet.beat.due")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--loaded")
    parser.add_argument("--state")
    parser.add_argument("--fired", default="{}")
    given = parser.parse_args()
    finish(lambda: answer(given))


if __name__ == "__main__":
    main()
