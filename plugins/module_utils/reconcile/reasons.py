"""Explains differences in a process's inputs in terms of the inventory.

Fingerprints only say that an input differs. This module has both texts: the one on disk and the new one. They contain
secrets, so a value is only shown if its type rules out a password: a worker option, a time in the schedule, the name
of a task or queue, a number or a boolean in Celery's settings. Everything else is only named.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ..text import shortened

ARGUMENTS = "environment CELERY_FLEET_ARGS"
DELIVERY = "environment CELERY_FLEET_DELIVERY"
AUTOSCALE = "environment CELERY_FLEET_AUTOSCALE"
DROP_IN = "drop-in 10-fleet.conf"

# Flags of `celery worker` and `celery beat` that are named differently from their options.
_FLAGS = {
    "-n": "node",
    "-O": "optimization",
    "-Q": "queues",
    "--max-interval": "max_loop_interval",
}
# The comment above a line in a worker's drop-in: the option that the line comes from.
_OPTION = re.compile(r"# ([a-z_]+)")
# The lines of `requires_mounts_for`, and a path in its command.
_OF_MOUNTS = ("ExecStartPre", "After", "PartOf")
_PATH = re.compile(r'\\"(.*?)\\"')
_VALUES = {"yes": "true", "no": "false", "pid": "true", "all": "false"}
# Parts of the delivery → their variables, if those have other names.
_PARTS = {
    "profile": "delivery",
    "hand_back": "requeue_on_crash",
    "carry": "keep_tasks_on_reconnect",
    "outage": "outage_guard",
    "unknown_delay": "unknown_task_retry_delay",
    "unknown_for": "unknown_task_retention",
    "deaths": "max_crashes_per_task",
    "keep": "max_dead_letters",
    "failed": "max_failed_dead_letters",
}
# Settings with text values that may be shown. Of other settings, only numbers and booleans may be shown.
_READABLE = frozenset(
    (
        "beat_schedule_on_edit",
        "beat_schedule_policy",
        "beat_scheduler",
        "delivery",
        "result_serializer",
        "fetch",
        "task_default_exchange",
        "task_default_queue",
        "task_default_routing_key",
        "task_serializer",
        "timezone",
    )
)
_SECRET = re.compile(r"auth|cred|key|login|pass|secret|token", re.IGNORECASE)
_CRONTAB = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
_KINDS = ("crontab", "interval", "solar")
# Fields of an entry or a route that may be shown. Others may be secret and are only named.
_SHOWN = ("task", "queue", "missed", "missed_limit")
_LONGEST = 60


def explain(label: str, before: str | None, after: str | None) -> list[str] | None:
    """Return how an input differs.

    The list is empty if the difference follows from another input. The result is None if it can't be explained.

    Args:
        label: The input's label in `fingerprint`.
        before: The text that the process read; None if there was none.
        after: The new text; None if there is none.
    """
    kind, _, name = label.partition(" ")
    try:
        if kind == "settings":
            return _setting(name, _parsed(before), _parsed(after))
        if label == DELIVERY:
            return _delivery(_parsed(before), _parsed(after))
        if label == AUTOSCALE:
            return [_difference("autoscale", _bounds(before), _bounds(after))]
        if before is None or after is None:
            return None
        if label == ARGUMENTS:
            return _differences(_options(before), _options(after))
        if label == DROP_IN:
            return _differences(_drop_in(before), _drop_in(after))
    except (AttributeError, TypeError, ValueError):
        # The file was edited by hand.
        return None
    return None


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _bounds(text: str | None) -> str | None:
    """Return a worker's bounds as ``2 to 10, wait 30 s``."""
    if text is None:
        return None
    given = json.loads(text)
    return f"{int(given['min'])} to {int(given['max'])}, wait {float(given['wait']):g} s"


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        _difference(name, before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def _difference(name: str, before: str | None, after: str | None) -> str:
    if name.startswith(DROP_IN):
        return f"{name} {'new' if before is None else 'removed' if after is None else 'changed'}"
    if after is None:
        return f"{name} {_short(before)} removed"
    return (
        f"{name} → {_short(after)}"
        if before is None
        else f"{name} {_short(before)} → {_short(after)}"
    )


def _short(text: str | None) -> str:
    return shortened(str(text), _LONGEST) or '""'


def _options(command: str) -> dict[str, str]:
    """Return the options in the command line of a worker or of beat.

    Raises:
        ValueError: It is another command line, such as the web process's. Users write that, so it may contain a secret.
    """
    words = shlex.split(command)
    if words[:4] != ["python", "-m", "celery", "-A"] or words[5:6] not in (["worker"], ["beat"]):
        raise ValueError(words[:1])
    found = {"celery_app_module": words[4]}
    rest = iter(words[6:])
    for word in rest:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            value = next(rest, "")
        elif not equals:
            value = "true"
        found[_FLAGS.get(flag) or flag.lstrip("-").replace("-", "_")] = value
    return found


def _drop_in(text: str) -> dict[str, str]:
    """Return the content of a worker's drop-in by option; other directives by name."""
    found: dict[str, str] = {}
    above = ""
    for line in text.splitlines():
        option, above = _OPTION.fullmatch(above), line
        directive, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        drain = re.search(r"/stop\.py .*--drain (\d+)", value)
        if directive == "ExecStop" and drain:
            found["drain_timeout"] = drain[1]
        elif directive == "ExecStopPost" and "/hand_back.py " in value:
            found["hand_back"] = "true"
        elif option and option[1] == "requires_mounts_for" and directive in _OF_MOUNTS:
            # Of its lines, the command names the paths.
            if directive == "ExecStartPre":
                found[option[1]] = " ".join(_PATH.findall(value))
        elif option and _is_ours(option[1], directive):
            name = option[1]
            own = _VALUES.get(value) or value.strip('"')
            found[name] = f"{found[name]} {own}" if name in found else own
        else:
            name = f"{DROP_IN}: {directive}"
            found[name] = f"{found.get(name, '')}\n{value}"
    if "drain_timeout" in found:
        # It is the drain timeout plus half a minute.
        found.pop(f"{DROP_IN}: TimeoutStopSec", None)
    return found


def _is_ours(option: str, directive: str) -> bool:
    """Return whether a directive belongs to an option, which begins with its name.

    Anything else was written by hand and may be secret.
    """
    return directive != "Environment" and option.replace("_", "").startswith(directive.lower())


# --- Celery's settings ---------------------------------------------------------------------------------


def _setting(name: str, before: Any, after: Any) -> list[str] | None:
    if name == "beat_schedule":
        return _each("entry", before, after, _entry, _due)
    if name == "task_routes":
        return _each("route", before, after, _fields, _to)
    if name == "metrics":
        return [f"{name} {_how(before, after)}"]
    if name == "delivery":
        return _delivery(
            None if before is None else {"delivery": before},
            None if after is None else {"delivery": after},
        )
    if _are_options(before, after):
        return _leaves(name, before or {}, after or {})
    if _may_be_shown(name, before) and _may_be_shown(name, after):
        return [_difference(name, _text(before), _text(after))]
    return None


def _are_options(before: Any, after: Any) -> bool:
    """Return whether a value is, or was, a dictionary."""
    values = [value for value in (before, after) if value is not None]
    return bool(values) and all(isinstance(value, Mapping) for value in values)


def _may_be_shown(name: str, value: Any) -> bool:
    if value is None or _SECRET.search(name):
        return value is None
    return isinstance(value, (bool, int, float)) or (name in _READABLE and isinstance(value, str))


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _leaves(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the differences in a setting that is a dictionary, option by option."""
    found = []
    for key in sorted({**before, **after}):
        old, new, path = before.get(key), after.get(key), f"{name}.{key}"
        if old == new:
            continue
        if _are_options(old, new):
            found += _leaves(path, old or {}, new or {})
        elif _may_be_shown(path, old) and _may_be_shown(path, new):
            found.append(_difference(path, _text(old), _text(new)))
        else:
            found.append(f"{path} {_how(old, new)}")
    return found


def _how(before: Any, after: Any) -> str:
    return "new" if before is None else "removed" if after is None else "changed"


def _delivery(before: Any, after: Any) -> list[str] | None:
    """Return the differences in the delivery. If the profile differs, the rest follows from it."""
    was, now = ((found or {}).get("delivery") or {} for found in (before, after))
    names = [name for name in sorted({**was, **now}) if was.get(name) != now.get(name)]
    if "profile" in names:
        names = ["profile"]
    found = {_PARTS.get(name, name): (was.get(name), now.get(name)) for name in names}
    return [_difference(name, _text(old), _text(new)) for name, (old, new) in found.items()] or None


def _each(what: str, before: Any, after: Any, differing: Any, shown: Any) -> list[str]:
    """Return the differences in the schedule's entries or in the routes, by name."""
    was, now = before or {}, after or {}
    found = []
    for name in {**was, **now}:
        old, new = was.get(name), now.get(name)
        if old == new:
            continue
        if old is None:
            found.append(f"{what} {name} new ({shown(new)})")
        elif new is None:
            found.append(f"{what} {name} removed")
        else:
            found.append(f"{what} {name}: {', '.join(differing(old, new))}")
    return found


def _to(route: Any) -> str:
    return f"queue {route}" if isinstance(route, str) else f"queue {route.get('queue', 'celery')}"


def _fields(before: Any, after: Any, besides: tuple[str, ...] = ()) -> list[str]:
    """Return the differing fields of an entry or a route; a route that is a string names a queue."""
    old, new = ({"queue": one} if isinstance(one, str) else one for one in (before, after))
    return [
        _difference(key, _text(old.get(key)), _text(new.get(key)))
        if key in _SHOWN
        else f"{key} {_how(old.get(key), new.get(key))}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in besides
    ]


def _entry(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    on = [one.get("enabled", True) for one in (before, after)]
    if on[0] != on[1]:
        # Other differences don't matter for an entry that is, or was, disabled.
        return [f"enabled {_text(on[0])} → {_text(on[1])}"]
    found = []
    old, new = _due(before), _due(after)
    if old != new:
        crontabs = before.get("crontab"), after.get("crontab")
        if crontabs[0] and crontabs[1]:
            old, new = _short_crontabs(_crontab(crontabs[0]), _crontab(crontabs[1]))
        found.append(f"{old} → {new}")
    return found + _fields(before, after, (*_KINDS, "enabled"))


def _due(entry: Mapping[str, Any]) -> str:
    """Return when an entry is due, as written in the inventory."""
    if not entry.get("enabled", True):
        return "enabled false"
    if entry.get("crontab"):
        fields = _crontab(entry["crontab"])
        return _short_crontabs(fields, fields)[0]
    if entry.get("interval") is not None:
        return f"every {float(entry['interval']):g} s"
    solar = entry.get("solar") or {}
    return f"{solar.get('event')} at {solar.get('latitude')}, {solar.get('longitude')}"


def _crontab(fields: Mapping[str, Any]) -> list[str]:
    """Return the five fields in the order of crontab(5)."""
    given = (fields.get(name, "*") for name in _CRONTAB)
    return [",".join(map(str, one)) if isinstance(one, list) else str(one) for one in given]


def _short_crontabs(one: list[str], other: list[str]) -> tuple[str, str]:
    """Return minute and hour, or all five fields if any of the others is set."""
    length = 2 if {*one[2:], *other[2:]} == {"*"} else len(_CRONTAB)
    return f"crontab {' '.join(one[:length])}", f"{' '.join(other[:length])}"
