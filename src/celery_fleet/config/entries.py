"""Check beat's entries from the inventory and convert them to Celery's.

An entry is ``{task, exactly one of crontab | interval | solar}`` with optional ``args``,
``kwargs``, ``queue``, ``options``, ``enabled``, ``missed`` and ``missed_limit``. ``interval`` is in
seconds. The fields of a ``crontab`` are Celery's, and each defaults to ``*``. An entry that is just
``{enabled: false}`` disables the application's entry of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_fleet.common.errors import FleetError, one_line

CRONTAB_FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
SOLAR_FIELDS = ("event", "latitude", "longitude")
KINDS = ("crontab", "interval", "solar")
FIELDS = frozenset(
    {"task", *KINDS, "args", "kwargs", "queue", "options", "enabled", "missed", "missed_limit"}
)

#: What happens to runs that an entry missed while no beat ran.
ONCE, EACH, SKIP = "once", "each", "skip"
MISSED = (ONCE, EACH, SKIP)

#: With `EACH`, the number of runs that are sent at most: by default, and the largest.
MISSED_LIMIT, MOST_MISSED = 10, 1000


@dataclass(frozen=True)
class Missed:
    """What happens to runs that an entry missed while no beat ran: one of `MISSED`, and the limit of `EACH`."""

    policy: str = ONCE
    limit: int = MISSED_LIMIT


@dataclass(frozen=True)
class Entry:
    """A checked entry of the schedule; ``spec`` is the value of field ``kind``."""

    name: str
    task: str
    kind: str
    spec: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    missed: Missed = field(default_factory=Missed)

    @property
    def queue(self) -> str | None:
        """Return the queue that the entry names; None if routes decide."""
        queue = self.options.get("queue")
        return None if queue is None else str(queue)


def parse_entries(raw: object) -> dict[str, Entry]:
    """Check a whole schedule.

    Raises:
        FleetError: lists every mistake with its entry.
    """
    if not isinstance(raw, Mapping):
        raise FleetError(f"beat_schedule must map entry names to entries, not {type(raw).__name__}")
    entries: dict[str, Entry] = {}
    errors: list[str] = []
    for name, item in raw.items():
        try:
            entries[str(name)] = parse_entry(str(name), item)
        except FleetError as exc:
            errors.append(f"beat_schedule.{name}: {exc}")
    if errors:
        raise FleetError("; ".join(errors))
    return entries


def parse_entry(name: str, raw: object) -> Entry:
    """Check one entry; the name is not checked.

    Raises:
        FleetError: names the field and what it should be.
    """
    if not isinstance(raw, Mapping):
        raise FleetError(f"must be a mapping with a task, not {type(raw).__name__}")
    unknown = sorted(str(key) for key in raw if key not in FIELDS)
    if unknown:
        raise FleetError(f"unknown field {', '.join(unknown)}: use {', '.join(sorted(FIELDS))}")
    if set(raw) == {"enabled"} and raw["enabled"] is False:
        return Entry(name=name, task="", kind="", spec=None, enabled=False)
    task = raw.get("task")
    if not isinstance(task, str) or not task:
        raise FleetError("needs a task, the name under which the application registers it")
    kinds = [kind for kind in KINDS if raw.get(kind) is not None]
    if len(kinds) != 1:
        given = ", ".join(kinds) if kinds else "none"
        raise FleetError(f"needs exactly one of {', '.join(KINDS)}; it has {given}")
    kind = kinds[0]
    options = dict(_mapping(raw, "options"))
    if raw.get("queue") is not None:
        if not isinstance(raw["queue"], str) or not raw["queue"]:
            raise FleetError("queue must be the name of a queue")
        options["queue"] = raw["queue"]
    args = raw.get("args") or []
    if not isinstance(args, (list, tuple)):
        raise FleetError("args must be a list")
    enabled = raw.get("enabled", True)
    if not isinstance(enabled, bool):
        raise FleetError("enabled must be true or false")
    return Entry(
        name=name,
        task=task,
        kind=kind,
        spec=_SPECS[kind](raw[kind]),
        args=tuple(args),
        kwargs=dict(_mapping(raw, "kwargs")),
        options=options,
        enabled=enabled,
        missed=parse_missed(raw),
    )


def parse_missed(raw: Mapping[str, Any]) -> Missed:
    """Return what happens to missed runs, from the fields ``missed`` and ``missed_limit`` of an entry.

    Raises:
        FleetError: names the field and what it should be.
    """
    policy, limit = raw.get("missed", ONCE), raw.get("missed_limit", MISSED_LIMIT)
    if policy not in MISSED:
        raise FleetError(f"missed is {policy!r}, not one of {', '.join(MISSED)}")
    if type(limit) is not int or not 1 <= limit <= MOST_MISSED:
        raise FleetError(f"missed_limit must be a number from 1 to {MOST_MISSED}, not {limit!r}")
    return Missed(policy, limit)


def _mapping(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, Mapping):
        raise FleetError(f"{name} must be a mapping")
    return value


def _crontab_spec(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise FleetError(f"crontab must be a mapping with some of {', '.join(CRONTAB_FIELDS)}")
    unknown = sorted(str(key) for key in value if key not in CRONTAB_FIELDS)
    if unknown:
        raise FleetError(
            f"crontab has no field {', '.join(unknown)}: use {', '.join(CRONTAB_FIELDS)}"
        )
    spec: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, bool) or not isinstance(item, (str, int, list, tuple)):
            raise FleetError(f"crontab.{key} must be a number, a list of them or a pattern")
        spec[key] = ",".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item)
    return spec


def _interval_spec(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise FleetError(f"interval must be a number of seconds above 0, not {value!r}")
    return float(value)


def _solar_spec(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or set(value) != set(SOLAR_FIELDS):
        raise FleetError(f"solar must be a mapping with {', '.join(SOLAR_FIELDS)}")
    return dict(value)


_SPECS = {"crontab": _crontab_spec, "interval": _interval_spec, "solar": _solar_spec}


def celery_schedule(entry: Entry, app: Any = None) -> Any:
    """Return Celery's schedule object for an entry.

    Raises:
        FleetError: Celery refuses the fields; the text has its reason.
    """
    from celery.schedules import crontab, schedule, solar

    try:
        if entry.kind == "crontab":
            return crontab(**entry.spec, app=app)
        if entry.kind == "interval":
            return schedule(run_every=entry.spec, app=app)
        return solar(
            entry.spec["event"],
            entry.spec["latitude"],
            entry.spec["longitude"],
            app=app,
        )
    except Exception as exc:
        # crontab's parser raises several unrelated types, one of them a bare Exception.
        raise FleetError(f"{entry.kind} of {entry.name}: {one_line(exc)}") from exc


def celery_entry(entry: Entry, app: Any = None) -> dict[str, Any]:
    """Return the entry in the form of Celery's ``beat_schedule``.

    Raises:
        FleetError: as :func:`celery_schedule`.
    """
    return {
        "task": entry.task,
        "schedule": celery_schedule(entry, app),
        "args": entry.args,
        "kwargs": dict(entry.kwargs),
        "options": dict(entry.options),
    }
