"""Describe an application's own schedule and settings as plain data, for ``release.json`` and for comparisons.

An entry is ``{task, one of crontab | interval | solar | custom, args, kwargs, options, queue, goes_to,
fixed}``. ``queue`` is named by the entry. ``goes_to`` is the queue that its task would be sent to, and
``fixed`` says that no route was asked for it. A schedule of the application's own class is ``custom``,
with its ``repr``. Other values that JSON does not know are written as their ``repr``, too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.compat import beat
from celery_fleet.config.entries import CRONTAB_FIELDS


def entries(app: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the entries of ``app.conf.beat_schedule``, and a line for each that beat could not use."""
    raw = app.conf.beat_schedule or {}
    if not isinstance(raw, Mapping):
        return {}, [
            (
                f"beat_schedule must map entry names to entries, not {type(raw).__name__}; correct it"
                " in the application's code"
            )
        ]
    found: dict[str, dict[str, Any]] = {}
    errors = []
    for name, item in raw.items():
        try:
            found[str(name)] = entry(app, str(name), item)
        except FleetError as exc:
            errors.append(f"beat_schedule of the application: entry {name}: {exc}")
    return dict(sorted(found.items())), errors


def queues(app: Any, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return where tasks go, as ``{goes_to, fixed}`` for each name; names with failing routes are left out."""
    found = {}
    for name in names:
        # Routes may be the application's own functions.
        with contextlib.suppress(Exception):
            goes_to, fixed = beat.queue_of(app, name, {})
            found[name] = {"goes_to": goes_to, "fixed": fixed}
    return found


def entry(app: Any, name: str, raw: Any) -> dict[str, Any]:
    """Return one entry, loaded as beat loads it.

    Raises:
        FleetError: beat could not load it; the text has its reason and the remedy.
    """
    try:
        made = beat.beat_entry(app, name, raw)
    except Exception as exc:
        # The application's own classes may raise anything.
        raise FleetError(
            f"beat can't use it ({type(exc).__name__}: {one_line(exc)}); correct it in the"
            " application's code"
        ) from exc
    if not isinstance(made.task, str) or not made.task:
        raise FleetError("it names no task; correct it in the application's code")
    options = dict(made.options or {})
    args, kwargs = made.args or (), made.kwargs or {}
    own = options.pop("queue", None)
    try:
        goes_to, fixed = beat.queue_of(app, made.task, made.options or {}, args, kwargs)
    except Exception as exc:
        raise FleetError(
            f"its task can't be routed ({type(exc).__name__}: {one_line(exc)}); correct"
            " task_routes, task_queues or the entry's queue in the application's code"
        ) from exc
    return {
        "task": made.task,
        **spec(made.schedule),
        "args": [plain(item) for item in args] if isinstance(args, (list, tuple)) else plain(args),
        "kwargs": plain(kwargs),
        "options": plain(options),
        "queue": None if own is None else str(getattr(own, "name", own)),
        "goes_to": goes_to,
        "fixed": fixed,
    }


def spec(schedule: Any) -> dict[str, Any]:
    """Return when an entry is due, in the inventory's form if that can express it."""
    from celery.schedules import crontab, solar
    from celery.schedules import schedule as interval

    # Exactly these classes: a subclass may be due at other times.
    if type(schedule) is crontab:
        return {"crontab": {field: _field(schedule, field) for field in CRONTAB_FIELDS}}
    if type(schedule) is interval and isinstance(schedule.run_every, timedelta):
        result: dict[str, Any] = {"interval": schedule.run_every.total_seconds()}
        return {**result, "relative": True} if schedule.relative else result
    if type(schedule) is solar:
        place = {"latitude": float(schedule.lat), "longitude": float(schedule.lon)}
        return {"solar": {"event": str(schedule.event), **place}}
    kind = type(schedule)
    return {"custom": one_line(f"{kind.__module__}.{kind.__qualname__} {schedule!r}")}


def _field(schedule: Any, field: str) -> str:
    value = getattr(schedule, f"_orig_{field}")
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, (str, int)):
        return str(value)
    # A set, a range, or another iterable of numbers.
    return ",".join(map(str, sorted(getattr(schedule, field))))


def plain(value: Any) -> Any:
    """Return the value if JSON knows it, otherwise its ``repr``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return one_line(repr(value))
    return value
