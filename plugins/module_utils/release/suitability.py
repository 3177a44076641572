"""Checks from a release's note whether the release fits an inventory: schedule, queues, routes, versions.

It only needs the note, so it also works if only the inventory has changed. Runs on hosts, inside the modules that build
a release or link to one, and on the control node.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..routing import DEFAULT_QUEUE, lacks, routed, unknown
from .note import NOTE
from .schedulers import unstorable

ADD, REPLACE, REFUSE = "add", "replace", "refuse"

# Minor versions of Celery and kombu that atomic fetching supports, as in `celery_fleet.compat.versions`, and the first
# redis-py that uses RESP3 by default.
ATOMIC = {"celery": ("5.7", "5.6", "5.5", "5.4"), "kombu": ("5.7", "5.6", "5.5", "5.4")}
_RESP3 = 8

# Celery's settings by the first minor version that has them (see its celery.app.defaults). Older ones ignore them.
SINCE = {
    "5.5": (
        "broker_native_delayed_delivery_queue_type",
        "database_create_tables_at_setup",
        "task_default_queue_type",
        "worker_detect_quorum_queues",
        "worker_enable_soft_shutdown_on_idle",
        "worker_soft_shutdown_timeout",
    ),
    "5.6": (
        "control_queue_durable",
        "control_queue_exclusive",
        "event_queue_durable",
        "event_queue_exclusive",
        "task_create_missing_queue_exchange_type",
        "task_create_missing_queue_type",
        "worker_disable_prefetch",
        "worker_eta_task_limit",
    ),
    "5.7": (
        "beat_enable_remote_control",
        "beat_remote_control_max_tick_age",
        "broker_pool_acquire_timeout",
        "database_engine_callback",
        "result_chord_expires",
        "result_failure_expires",
        "task_acks_on_failure",
        "task_acks_on_timeout",
        "task_repr_maxlevels",
        "task_retry_on_worker_lost",
        "worker_log_datefmt",
        "worker_pool_start_method",
        "worker_task_log_datefmt",
    ),
}

_CRONTAB = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")


def refusals(identity: str, note: str, demands: Mapping[str, Any]) -> list[str]:
    """Return errors if a release does not fit the inventory, each with what to do; an empty list if it fits.

    Args:
        identity: Name of the release.
        note: Text of its note.
        demands: Requirements of the inventory: `schedule` (celery_beat_schedule), `policy`
            (celery_beat_schedule_policy), `routes` (celery_app_task_routes), `settings`
            (celery_app_settings), `queues` (all that workers consume), `scheduler` (celery_beat_scheduler),
            `atomic` (whether any worker fetches atomically), `external` (celery_app_external_queues), `held` (whether
            the fleet went back to this release, so the inventory may be newer; `remarks` has what can be tolerated).
    """
    try:
        whole = _read(note)
    except (ValueError, KeyError, TypeError, AttributeError):
        return [
            f"release {identity}: its {NOTE} can't be read. Remove the release's directory and run again."
        ]
    told = whole["application"]
    inventory = dict(demands.get("schedule") or {})
    policy = str(demands.get("policy") or ADD)
    scheduler = str(demands.get("scheduler"))
    found = [] if demands.get("held") else _misfits(identity, whole, demands)
    found += _eager(identity, told, demands)
    found += _foreign(identity, _versions(whole), demands)
    found += unstorable(identity, told, in_effect(told["schedule"], inventory, policy), scheduler)
    found += _without_sun(identity, told, inventory)
    return found


def _without_sun(identity: str, told: Mapping[str, Any], inventory: Mapping[str, Any]) -> list[str]:
    """Return solar entries that beat can't use; it would not start. An older note does not tell."""
    solar = sorted(name for name, entry in inventory.items() if entry and entry.get("solar"))
    if not solar or not told.get("no_solar"):
        return []
    entries, why = ", ".join(solar), told["no_solar"]
    words = f"celery_beat_schedule has solar entries ({entries}), but of release {identity} {why}."
    return [f"{words} Add celery[solar] to its requirements, or give these entries crontabs."]


def _read(note: str) -> dict[str, Any]:
    whole = json.loads(note)
    told = whole.get("application") or {}
    told = {**told, "schedule": dict(told.get("schedule") or {}), "tells": "schedule" in told}
    return {**whole, "tasks": set(whole["tasks"]), "application": told}


def _misfits(identity: str, whole: Mapping[str, Any], demands: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a release that can run all the same.

    Entries of the schedule send tasks in vain, or settings have no effect. A fleet that goes back to a release has an
    inventory that was written for a newer one.
    """
    tasks, told = whole["tasks"], whole["application"]
    code = told["schedule"]
    inventory = dict(demands.get("schedule") or {})
    policy = str(demands.get("policy") or ADD)
    found = _lacking(identity, tasks, inventory, demands)
    found += _ignored(identity, _versions(whole), demands)
    if policy == REFUSE and inventory:
        found.append(
            f"celery_beat_schedule has entries ({', '.join(sorted(inventory))}), while celery_beat_schedule_policy "
            "is refuse, by which the schedule in the code is the whole. Remove them, or set the policy to add."
        )
    if policy == ADD:
        found += _contradictions(identity, inventory, code)
        if told["tells"]:
            found += _overriding_nothing(identity, inventory, code)
    for name, entry in in_effect(code, inventory, policy).items():
        found += _unserved(identity, name, entry, tasks, told, demands)
    return found


def remarks(identity: str, note: str, demands: Mapping[str, Any]) -> list[str]:
    """Return remarks about a release that fits but has drawbacks; the arguments are those of `refusals`."""
    try:
        whole = _read(note)
        found = _misfits(identity, whole, demands) if demands.get("held") else []
        redis = _versions(whole).get("redis") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    major = redis.partition(".")[0]
    if not demands.get("atomic") or not major.isdigit() or int(major) >= _RESP3:
        return found
    return [
        *found,
        (
            f"release {identity}: redis-py {redis} does not speak RESP3 by itself, by which idle workers hear of new "
            f"tasks. They look for them instead, which costs Redis some commands a second and tasks some milliseconds. "
            f"Require redis>={_RESP3}, which kombu goes with from 5.7 on."
        ),
    ]


def _versions(whole: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions in a note; empty for an old note without versions."""
    return {name: str(text) for name, text in (whole.get("versions") or {}).items() if text}


def _foreign(identity: str, versions: Mapping[str, str], demands: Mapping[str, Any]) -> list[str]:
    """Return errors about a Celery or kombu that atomic fetching does not support."""
    if not demands.get("atomic"):
        return []
    return [
        (
            f"release {identity} has {name} {versions[name]}, and atomic fetching only supports {', '.join(known)}. "
            f"Require {name}=={known[0]}.*, or set celery_worker_fetch: stock."
        )
        for name, known in ATOMIC.items()
        if name in versions and _minor(versions[name]) not in known
    ]


def _ignored(identity: str, versions: Mapping[str, str], demands: Mapping[str, Any]) -> list[str]:
    """Return errors about settings in the inventory that the release's Celery does not have yet."""
    found = _numbers(versions.get("celery", ""))
    settings = demands.get("settings") or {}
    if not found:
        return []
    lines = []
    for minor, names in SINCE.items():
        for name in sorted({*names} & {*settings}) if found < _numbers(minor) else ():
            remedy = f"Require celery=={minor}.*, or remove it"
            if name == "task_retry_on_worker_lost":
                if not settings[name]:
                    continue  # the same as without the setting
                remedy += ": with celery_app_delivery: at_least_once Celery Fleet does the same"
            lines.append(
                f"celery_app_settings.{name} is new in Celery {minor}, and release {identity} has "
                f"{versions['celery']}, which ignores it. {remedy}."
            )
    return lines


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def in_effect(
    code: Mapping[str, Any], inventory: Mapping[str, Any], policy: str
) -> dict[str, Mapping[str, Any]]:
    """Return the entries in the code that beat loads in addition to those in the inventory."""
    if policy == REPLACE:
        return {}
    return {
        name: entry for name, entry in code.items() if policy == REFUSE or name not in inventory
    }


def names_expected(
    code: Iterable[str], inventory: Mapping[str, Mapping[str, Any]], policy: str
) -> tuple[set[str], set[str]]:
    """Return names of the entries that beat must load: those in the inventory, and those in the code at build time."""
    ours = {name for name, entry in inventory.items() if entry.get("enabled", True)}
    theirs: dict[str, Mapping[str, Any]] = {name: {} for name in code}
    return ours, set(in_effect(theirs, inventory, policy))


def queue_of(
    entry: Mapping[str, Any], told: Mapping[str, Any], demands: Mapping[str, Any]
) -> str | None:
    """Return the queue of an entry in the code on these hosts; None if the note does not say.

    The inventory's routes and default queue replace the application's. If the inventory set them when the release was
    built (`pinned`) but no longer does, the note lacks the application's own. If an entry only names an exchange, its
    queue is not known.
    """
    if entry.get("fixed"):
        queue = entry.get("goes_to")
        return None if queue is None else str(queue)
    settings = demands.get("settings") or {}
    pinned = told.get("pinned") or ()
    own = "" if "task_default_queue" in pinned else str(told.get("default_queue") or DEFAULT_QUEUE)
    default = str(settings.get("task_default_queue") or own)
    routes = settings.get("task_routes") or demands.get("routes")
    if isinstance(routes, Mapping) and routes:
        return routed(str(entry["task"]), routes, default) or None
    if "task_routes" in pinned:
        return None
    goes_to = entry["goes_to"]
    if goes_to is None:
        return None
    return (default or None) if goes_to == told.get("default_queue") else str(goes_to)


def _lacking(
    identity: str, tasks: set[str], inventory: Mapping[str, Any], demands: Mapping[str, Any]
) -> list[str]:
    found = []
    missing = unknown(inventory, tasks, demands.get("routes"), demands.get("external") or ())
    for name, task in missing.items():
        near = difflib.get_close_matches(task, tasks, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        remedy = "Correct the entry, or deploy code that has it."
        if demands.get("held"):
            where = "as it is in the database" if demands.get("scheduler") == "database" else "out"
            remedy = f"The entry is left {where} while the fleet holds this release."
        found.append(
            f"celery_beat_schedule.{name}: release {identity} has no task {task}.{guess} {remedy}"
        )
    return found


def _eager(identity: str, told: Mapping[str, Any], demands: Mapping[str, Any]) -> list[str]:
    settings = demands.get("settings") or {}
    if not settings.get("task_always_eager", told.get("task_always_eager")):
        return []
    return [
        (
            f"release {identity}: task_always_eager is on, so no worker would ever get a task. Switch it off in the "
            "settings that the hosts use, or set celery_app_settings.task_always_eager: false."
        )
    ]


def _contradictions(
    identity: str, inventory: Mapping[str, Any], code: Mapping[str, Any]
) -> list[str]:
    found = []
    for name in sorted(inventory.keys() & code.keys()):
        ours, theirs = inventory[name], code[name]
        if not ours.get("enabled", True) or ours.get("override"):
            continue
        differing = _differing(ours, theirs)
        if differing:
            found.append(
                f"celery_beat_schedule.{name}: the code of release {identity} has an entry of this name with another "
                f"{' and '.join(differing)}. Add override: true to ours to replace it, remove one of the two, or set "
                "celery_beat_schedule_policy: replace, by which the inventory's schedule is the whole."
            )
    return found


def _overriding_nothing(
    identity: str, inventory: Mapping[str, Any], code: Mapping[str, Any]
) -> list[str]:
    found = []
    for name, entry in sorted(inventory.items()):
        if entry.get("override") and name not in code:
            near = difflib.get_close_matches(name, code, n=1)
            found.append(
                f"celery_beat_schedule.{name}: override is true, but the code of release {identity} has no entry of "
                f"this name. {f'Did you mean {near[0]}?' if near else 'Remove override.'}"
            )
    return found


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the fields in which an entry in the inventory differs from one in the code."""
    own = dict(ours.get("options") or {})
    queue = ours.get("queue") or own.pop("queue", None)
    own.pop("queue", None)
    pairs = {
        "task": (ours.get("task"), theirs.get("task")),
        "time": (_time(ours), _time(theirs)),
        "args": (list(ours.get("args") or []), theirs.get("args") or []),
        "kwargs": (dict(ours.get("kwargs") or {}), theirs.get("kwargs") or {}),
        "queue": (queue, theirs.get("queue")),
        "options": (own, theirs.get("options") or {}),
    }
    return [what for what, (mine, other) in pairs.items() if mine != other]


def _time(entry: Mapping[str, Any]) -> Any:
    """Return when an entry is due, in a form that both sides share."""
    if entry.get("crontab") is not None:
        fields = entry["crontab"]
        return {field: _text(fields.get(field, "*")) for field in _CRONTAB}
    if entry.get("interval") is not None:
        return (float(entry["interval"]), bool(entry.get("relative")))
    if entry.get("solar") is not None:
        sun = entry["solar"]
        return (sun.get("event"), float(sun["latitude"]), float(sun["longitude"]))
    return entry.get("custom")


def _text(value: Any) -> str:
    items = value if isinstance(value, (list, tuple)) else [value]
    return ",".join(str(item).replace(" ", "").lower() for item in items)


def _unserved(
    identity: str,
    name: str,
    entry: Mapping[str, Any],
    tasks: set[str],
    told: Mapping[str, Any],
    demands: Mapping[str, Any],
) -> list[str]:
    """Return what is wrong with an entry in the code on these hosts."""
    what = f"beat_schedule of release {identity}, in its code: entry {name}"
    off = f"disable it with celery_beat_schedule: {{{name}: {{enabled: false}}}}"
    task = str(entry["task"])
    queue = queue_of(entry, told, demands)
    if queue in (demands.get("external") or ()):
        return []
    if lacks(tasks, task):
        last = task.rpartition(".")[2]
        near = sorted(other for other in tasks if other.rpartition(".")[2] == last)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "is its module in include or imports?"
        )
        return [
            f"{what} sends {task}, which the release does not register: {hint} Fix it there, or {off}."
        ]
    queues = demands.get("queues")
    if queues is None or queue is None or queue in queues:
        return []
    return [
        (
            f"{what} sends {task} to the queue {queue}, which no worker of the inventory consumes (consumed are "
            f"{', '.join(sorted(queues)) or 'none'}). Add it to a worker's queues, route the task elsewhere by "
            f"celery_app_task_routes, or {off}."
        )
    ]
