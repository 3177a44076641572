"""Synchronise, list, reset, enable and disable the schedule in the application's database.

    python -m celery_fleet.beat.database.program [--settings] plan|sync [--reset]
    python -m celery_fleet.beat.database.program [--settings] declared
    python -m celery_fleet.beat.database.program list [--count N] [--fired JSON]
    python -m celery_fleet.beat.database.program reset|enable|disable [--dry-run] [--name NAME …]

``CELERY_APP`` names the application, which is loaded as beat loads it. The declared entries are the inventory's and
the code's, according to ``celery_beat_schedule_policy``. The settings are beat's, which hold the inventory's schedule:
those of the process, or with ``--settings`` a document on standard input. Arguments of entries may be secret, so none
is ever printed.

``plan`` only reads, and creates no table. If there is something to write, it runs this program again with ``declared``,
which prints digests of the declared entries: code may compute other values in another process. ``sync`` does what
``plan`` says, in one transaction that excludes other runs. ``reset``, ``enable`` and ``disable`` change only declared
entries that we wrote; without names, all of them. ``--fired`` is when entries were sent, as
``{name: [Unix time, …]}``, and is answered as `celery_fleet.beat.due` does.

Prints one line of JSON with ``ok`` and ``error``. ``refused`` is true if the declared entries must be corrected,
``usage`` if no entry has a given name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from celery_fleet.beat.database import plan as planning
from celery_fleet.beat.database.plan import PlannedEntry, Row
from celery_fleet.common.answering import finish
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact

if TYPE_CHECKING:
    from celery_fleet.beat.database.store import Store
from celery_fleet.beat.database.available import missing

#: Seconds that `plan` waits for the second process.
AGAIN = 20.0


class InvalidScheduleError(FleetError):
    """A declared entry can't be written, independent of what is in the database."""


class UnknownNameError(FleetError):
    """No entry has a given name."""


def use_settings(text: str) -> None:
    """Give this process settings from a text instead of a file.

    Raises:
        FleetError: The text does not hold settings of beat.
    """
    from celery_fleet.config import current, settings

    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise FleetError(f"the settings are not JSON (line {error.lineno}, {error.msg})") from error
    current.use_settings(settings.parse(document, "settings", "beat"))


def load(module: str) -> Any:
    """Load the application and set up Django.

    Raises:
        FleetError: The application can't be loaded, or has no django_celery_beat.
    """
    from celery_fleet.beat import due

    try:
        app = due.load(module)
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise FleetError(f"application {module} can't be loaded: {what}") from error
    trouble = missing()
    if trouble:
        raise FleetError(f"application {module}: {trouble}")
    return app


def declared(app: Any) -> dict[str, dict[str, Any]]:
    """Return the contents of all declared entries.

    Raises:
        FleetError: Lists every entry that the database can't hold.
    """
    from celery_fleet.beat.database import content as database_content
    from celery_fleet.config import current
    from celery_fleet.config.entries import celery_entry

    schedule = current.current_settings().schedule or {}
    wanted = {str(name): (raw, True) for name, raw in (app.conf.beat_schedule or {}).items()}
    # A complete entry that is disabled is written too, so that users can enable it.
    for name, entry in schedule.items():
        if not entry.enabled and entry.task:
            wanted[name] = (celery_entry(entry, app), False)
    found: dict[str, dict[str, Any]] = {}
    errors = []
    for name, (raw, enabled) in wanted.items():
        try:
            found[name] = database_content.content_for(app, name, raw, enabled=enabled)
        except FleetError as error:
            errors.append(f"schedule entry {name}: {error}")
    if errors:
        raise InvalidScheduleError("; ".join(errors))
    return found


def digests(declared: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return a digest of each field, which shows differences without values; arguments may be secret."""
    return {
        name: {
            field: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            for field, value in content.items()
        }
        for name, content in declared.items()
    }


def varying(declared: Mapping[str, Mapping[str, Any]], text: str) -> dict[str, tuple[str, ...]]:
    """Return the fields of entries that the code computes differently in another process, for example with ``hash()``.

    Args:
        declared: The contents in this process.
        text: The settings document, if it came on standard input.
    """
    options = ["--settings"] if text else []
    command = [sys.executable, "-m", "celery_fleet.beat.database.program", *options, "declared"]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=AGAIN, check=True
        )
        there = json.loads(done.stdout)["declared"]
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        # This is an extra: the plan is valid without it.
        return {}
    here = digests(declared)
    fields = {
        name: tuple(field for field in here[name] if here[name][field] != there[name].get(field))
        for name in here.keys() & there.keys()
    }
    return {name: differing for name, differing in fields.items() if differing}


class Schedule:
    """The declared entries, and the entries in the database."""

    def __init__(self, app: Any) -> None:
        from celery_fleet.beat.database.store import Store

        self.app = app
        self.declared = declared(app)
        self.store: Store = Store()
        self.rows: dict[int, Any] = {}

    def steps(self, edited: str = planning.KEEP, reset: Sequence[str] = ()) -> list[PlannedEntry]:
        """Return the current state of all entries."""
        from celery_fleet.beat.database.content import content_of
        from celery_fleet.config import current

        left_out = current.current_settings().schedule_left_out
        marks = self.store.marks()
        self.rows = self.store.rows()
        rows = [Row(key, content_of(row)) for key, row in self.rows.items()]
        return planning.steps(self.declared, rows, marks, edited, reset, left_out)

    def plan(self, edited: str, text: str = "") -> dict[str, Any]:
        """Return what synchronising would do; nothing is written. ``text`` is that of `varying`."""
        steps = self.steps(edited)
        writes = any(step.action in (planning.ADD, planning.CHANGE) for step in steps)
        return told(steps, varying(self.declared, text) if writes else {})

    def sync(self, edited: str) -> dict[str, Any]:
        """Synchronise the database with the declared entries."""
        # Look first: if there is nothing to do, nothing is written, and our table is not created.
        steps = self.steps(edited)
        if not any(step.action for step in steps):
            return told(steps)
        with self.store.exclusive():
            steps = self.steps(edited)
            self.store.take(steps, self.rows)
        return told(steps)

    def reset(self, names: Sequence[str], *, dry: bool) -> dict[str, Any]:
        """Restore entries that a user edited, disabled or deleted to what is declared."""
        self._known(names)

        def chosen() -> list[PlannedEntry]:
            wanted = names or list(self.declared)
            return [step for step in self.steps(reset=wanted) if step.name in wanted]

        steps = chosen()
        if not dry and any(step.action for step in steps):
            with self.store.exclusive():
                steps = chosen()
                self.store.take(steps, self.rows)
        return told(steps)

    def switch(self, names: Sequence[str], *, on: bool, dry: bool) -> dict[str, Any]:
        """Enable or disable declared entries."""
        self._known(names)

        def chosen() -> list[PlannedEntry]:
            return [
                step
                for step in self.steps()
                if step.state in (planning.DECLARED, planning.EDITED, planning.DISABLED)
                and step.row is not None
                and (not names or step.name in names)
            ]

        steps = chosen()
        differing = [step.name for step in steps if step.row and step.row.content["enabled"] != on]
        if not dry and differing:
            with self.store.exclusive():
                steps = chosen()
                differing = self.store.switch(steps, self.rows, on=on)
        action, why = ("enable", "it is disabled") if on else ("disable", "it is enabled")
        items = [{"entry": name, "action": action, "why": [why]} for name in differing]
        return {"items": items, "notes": []}

    def _known(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.declared]
        if unknown:
            raise UnknownNameError(
                f"no entry {', '.join(unknown)} is declared; the declared ones are {', '.join(self.declared) or 'none'}"
            )

    def entries(self, count: int, fired: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Return all entries with their state and due times, the one due next first, and what was sent when."""
        from celery_fleet.beat import slots

        start = self.app.now()
        found = [self._entry(step, count, start) for step in self.steps()]
        found.sort(key=lambda one: (not one["due"], one["due"][:1] and one["due"][0]["utc"]))
        rows = {row.name: row for row in self.rows.values()}
        past = slots.history(lambda name: rows[name].schedule, self.app.timezone, fired)
        return {"timezone": str(self.app.timezone), "entries": found, "history": past}

    def _entry(self, step: PlannedEntry, count: int, start: Any) -> dict[str, Any]:
        from celery.utils.time import maybe_make_aware

        from celery_fleet.beat import slots
        from celery_fleet.beat.database import store
        from celery_fleet.beat.database.content import check
        from celery_fleet.compat import beat

        row = self.rows.get(step.row.key) if step.row is not None else None
        content = step.row.content if step.row is not None else step.wanted or {}
        shown = SimpleNamespace(
            name=content.get("name", step.name),
            task=content.get("task", ""),
            options={"queue": content["queue"]} if content.get("queue") else {},
            args=content.get("args", []),
            kwargs=content.get("kwargs", {}),
            schedule=planning.shown("schedule", content.get("schedule")),
        )
        entry = {
            **beat.view_entry(self.app, shown),
            "state": step.state,
            "enabled": bool(row is not None and row.enabled),
            "edited": list(step.edited),
            "last_run": None,
            "runs": 0,
            "due": [],
            "last": None,
            "drift": None,
            "missed": None,
            "error": None,
        }
        if row is None:
            return entry
        if row.last_run_at is not None:
            entry["last_run"] = row.last_run_at.isoformat(timespec="seconds")
        entry["runs"] = row.total_run_count
        if entry["enabled"] and shown.task not in self.app.tasks:
            entry["error"] = f"the release has no task {shown.task}"
        try:
            if entry["enabled"]:
                check(row)
            if entry["enabled"] and row.clocked is None:
                last = maybe_make_aware(row.last_run_at or row.date_changed)
                ran = row.last_run_at is not None
                begin = None if row.start_time is None else maybe_make_aware(row.start_time)
                zone = self.app.timezone
                entry.update(slots.compared(row.schedule, zone, last, ran, start, begin))
            for moment in store.due(self.app, row, count, start):
                entry["due"].append(slots.moment(moment, self.app.timezone))
        except Exception as error:  # noqa: BLE001  # users may have typed anything into the database
            entry["error"] = f"{type(error).__name__}: {one_line(error)}"
        return entry


def told(
    steps: Sequence[PlannedEntry], varying: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Any]:
    """Return steps as the plan and the operator's command show them, with the fields that vary between processes."""
    vary = varying or {}
    notes = [*map(planning.note, steps), *map(planning.varies, vary.keys(), vary.values())]
    return {
        "items": [planning.item(step, vary.get(step.name, ())) for step in steps if step.action],
        "notes": [text for text in notes if text],
    }


def carry_out(schedule: Schedule, given: argparse.Namespace, text: str) -> dict[str, Any]:
    """Do what the command line asks for and return the answer."""
    from celery_fleet.config import current

    if given.do == "declared":
        return {"declared": digests(schedule.declared)}
    edited = planning.RESET if given.reset else current.current_settings().schedule_edited
    if given.do == "list":
        return schedule.entries(given.count, json.loads(given.fired))
    if given.do == "reset":
        return schedule.reset(given.names, dry=given.dry_run)
    if given.do in ("enable", "disable"):
        return schedule.switch(given.names, on=given.do == "enable", dry=given.dry_run)
    if given.do == "plan" or given.dry_run:
        return schedule.plan(edited, text)
    return schedule.sync(edited)


def answer(given: argparse.Namespace, text: str) -> Mapping[str, Any]:
    """Return the document to print."""
    try:
        if given.settings:
            use_settings(text)
        schedule = Schedule(load(os.environ.get("CELERY_APP", "")))
        return {"ok": True, "error": None, **carry_out(schedule, given, text)}
    except FleetError as error:
        return {
            "ok": False,
            "error": redact(one_line(error)),
            "refused": isinstance(error, InvalidScheduleError),
            "usage": isinstance(error, UnknownNameError),
        }
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the application's code may do anything
        what = f"{type(error).__name__}: {one_line(error)}"
        return {"ok": False, "error": redact(f"the schedule in the database: {what}")}


def main() -> NoReturn:
    """Print the answer; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="celery_fleet.beat.database.program")
    parser.add_argument("--settings", action="store_true")
    verbs = ("plan", "sync", "declared", "list", "reset", "enable", "disable")
    parser.add_argument("do", choices=verbs)
    parser.add_argument("--name", action="append", default=[], dest="names")
    parser.add_argument("--reset", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--fired", default="{}")
    given = parser.parse_args()
    text = sys.stdin.read() if given.settings else ""
    finish(lambda: answer(given, text))


if __name__ == "__main__":
    main()
