"""Checks beat's scheduler and the entries of its schedule."""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.application_options import ENTRY
from ...desired.option import as_number
from ..model.inventory import UNKNOWN, Model, Problem, as_mapping, dotted
from ..model.report import with_hosts
from .schedule_times import (
    CRONTAB_WIDTHS,
    LARGEST_NUMBER,
    PERIODS,
    TEXT_WIDTH,
    check_crontab,
    check_interval,
    check_solar,
)
from .values import kind_of, not_a_mapping, suggestion, unknown_keys

Path = tuple[object, ...]

# How similar a text has to be to a zone's name for that to be suggested.
_LIKE_A_ZONE: Final = 0.75

# Beat gets its schedule as a credential. systemd gives a unit at most 1 MiB of these (systemd.exec(5)), and beat needs
# some for its other settings and the secret environment.
_MOST_BYTES: Final = 800_000

_KINDS: Final = ("crontab", "interval", "solar")

_KEYS: Final = {option.name: option for option in ENTRY}
# Keys with a separate check of both type and content.
_CHECKED: Final = (*_KINDS, "task", "queue")

_TYPES: Final[Mapping[str, type]] = {"list": list, "dict": dict, "bool": bool, "int": int}

_OPTIONS: Final = ("exchange", "expires", "headers", "priority", "queue", "routing_key")

# Options of apply_async (celery.app.task and celery.app.amqp, read at 5.7.0) that an inventory can write.
_TAKEN: Final = (
    *_OPTIONS,
    *"""
        compression countdown delivery_mode eta exchange_type ignore_result retry retry_policy
        reply_to serializer shadow soft_time_limit stamped_headers task_id time_limit argsrepr
        kwargsrepr mandatory immediate content_type content_encoding expiration correlation_id link
        link_error add_to_parent group_id root_id parent_id replaced_task_nesting
    """.split(),  # noqa: SIM905 - as a list it would be a page of quotes
)

# The values of celery_beat_scheduler.
SCHEDULERS: Final = ("persistent", "database", "redbeat")

# Celery's settings that have no meaning if the schedule is in a database or on the broker, and those of celery-redbeat.
_FOREIGN: Final = ("beat_scheduler", "beat_schedule_filename")
_REDBEAT: Final = "redbeat_"


def check_scheduler(model: Model) -> Iterator[Problem]:
    """Refuse a scheduler that is not supported."""
    for value, hosts in model.distinct("celery_beat_scheduler"):
        if isinstance(value, str) and value not in SCHEDULERS:
            yield Problem(
                "celery_beat_scheduler",
                "is not supported",
                "write persistent, database or redbeat, or remove it",
                value=model.show(("celery_beat_scheduler",), value),
                hosts=hosts,
            )


def check_database(model: Model) -> Iterator[Problem]:
    """Refuse options that need a schedule in a database, and entries that such a schedule can't store."""
    for host in model.members("celery_beat"):
        scheduler = model.value(host, "celery_beat_scheduler")
        if scheduler != "database" and model.value(host, "celery_beat_schedule_on_edit") == "reset":
            yield Problem(
                "celery_beat_schedule_on_edit",
                f"is reset, but celery_beat_scheduler is {scheduler}, and only edits in a database are kept",
                "remove it, or set celery_beat_scheduler: database",
                hosts=(host,),
            )
        yield from _foreign(host, model, scheduler)
        if scheduler == "redbeat":
            yield from _without_sun(host, model)
        if scheduler != "database":
            continue
        seconds = as_number(model.value(host, "celery_beat_schedule_timeout"))
        if seconds is not None and seconds < 1:
            yield Problem(
                "celery_beat_schedule_timeout",
                "is too short for a database to answer",
                "write 1 or more, in seconds; 60 is the default",
                value=model.show(("celery_beat_schedule_timeout",), seconds),
                hosts=(host,),
            )
        for name, entry in as_mapping(model.value(host, "celery_beat_schedule")).items():
            if isinstance(entry, Mapping):
                path = ("celery_beat_schedule", name)
                yield from with_hosts((host,), _held(path, as_mapping(entry)))


def _foreign(host: str, model: Model, scheduler: object) -> Iterator[Problem]:
    """Refuse settings that celery_beat_scheduler decides about."""
    if scheduler not in ("database", "redbeat"):
        return
    for name in as_mapping(model.value(host, "celery_app_settings")):
        if name in _FOREIGN or (scheduler == "redbeat" and str(name).startswith(_REDBEAT)):
            yield Problem(
                dotted(("celery_app_settings", name)),
                f"has no meaning if celery_beat_scheduler is {scheduler}",
                "remove it; entries are declared in celery_beat_schedule",
                hosts=(host,),
            )


def _without_sun(host: str, model: Model) -> Iterator[Problem]:
    """Refuse solar schedules, which celery-redbeat can't store."""
    for name, entry in as_mapping(model.value(host, "celery_beat_schedule")).items():
        if as_mapping(entry).get("solar") is not None:
            yield Problem(
                dotted(("celery_beat_schedule", name, "solar")),
                "can't be stored by celery-redbeat",
                "write a crontab or an interval, or set another celery_beat_scheduler",
                hosts=(host,),
            )


def _held(path: Path, entry: Mapping[str, object]) -> Iterator[Problem]:
    """Refuse values that the database can't store. Another check reports values that are not entries at all."""
    texts: list[tuple[Path, object, int]] = [
        (path, path[-1], TEXT_WIDTH),
        *(((*path, key), entry.get(key), TEXT_WIDTH) for key in ("task", "queue")),
        *(
            ((*path, "crontab", field), text, CRONTAB_WIDTHS[field])
            for field, text in as_mapping(entry.get("crontab")).items()
            if field in CRONTAB_WIDTHS
        ),
    ]
    for where, text, width in texts:
        if isinstance(text, (str, int)) and len(str(text)) > width:
            yield Problem(
                dotted(where),
                f"has {len(str(text))} characters, but the database only stores {width}",
                "make it shorter, or set celery_beat_scheduler: persistent",
            )
    interval = as_number(entry.get("interval"))
    if interval is not None and interval > 0:
        microseconds = round(interval * 1e6)
        size = next(size for size in PERIODS if microseconds % size == 0)
        if microseconds == 0 or microseconds // size > LARGEST_NUMBER:
            yield Problem(
                dotted((*path, "interval")),
                "is an interval that the database can't store",
                "round it to seconds, minutes, hours or days",
            )
    options = as_mapping(entry.get("options"))
    for key in options:
        if key not in _OPTIONS:
            yield Problem(
                dotted((*path, "options", key)),
                "is an option that the database can't store",
                f"remove it (it stores {', '.join(_OPTIONS)}), or set it on the task",
            )
    expires = options.get("expires")
    if expires not in (None, UNKNOWN) and (
        isinstance(expires, bool) or not isinstance(expires, int)
    ):
        yield Problem(
            dotted((*path, "options", "expires")),
            "is not a whole number of seconds, as the database needs",
            "write the seconds as a number",
        )


def check_policy(model: Model) -> Iterator[Problem]:
    """Refuse entries in the inventory if its policy leaves the schedule to the application's code."""
    for host in model.members("celery_beat") or tuple(model.hosts):
        entries = as_mapping(model.value(host, "celery_beat_schedule"))
        if model.value(host, "celery_beat_schedule_policy") == "refuse" and entries:
            yield Problem(
                "celery_beat_schedule",
                f"has {', '.join(entries)}, but celery_beat_schedule_policy is refuse: only the schedule in the "
                "application's code counts",
                "remove the entries, or set celery_beat_schedule_policy: add",
                hosts=(host,),
            )


def check_zone(model: Model) -> Iterator[Problem]:
    """Refuse an unknown time zone, and two settings that would disturb a fleet."""
    for value, hosts in model.distinct("celery_app_settings"):
        settings = as_mapping(value)
        if settings.get("task_always_eager") is True:
            yield Problem(
                "celery_app_settings.task_always_eager",
                "is on, so tasks would run in the process that calls them and no worker would ever get one",
                "remove it; it is for a developer's machine",
                hosts=hosts,
            )
        if settings.get("beat_enable_remote_control") is True:
            yield Problem(
                "celery_app_settings.beat_enable_remote_control",
                "is on, but beat's user in Redis may not have a mailbox, so beat would log an error every 5 s",
                "remove it; systemd's watchdog and `celery-fleet status` show whether beat is alive",
                hosts=hosts,
            )
        zone = settings.get("timezone")
        known = zoneinfo.available_timezones() if isinstance(zone, str) else set()
        # Without a database of zones only the release's check can find this.
        if isinstance(zone, str) and known and zone not in known:
            yield Problem(
                "celery_app_settings.timezone",
                "is not a time zone",
                # Abbreviations and offsets look similar but mean different things, so they are not suggested.
                suggestion(zone, tuple(name for name in known if "/" in name), _LIKE_A_ZONE)
                or "write UTC or a city's zone, such as Europe/Berlin; offsets and abbreviations are not accepted",
                value=model.show(("celery_app_settings", "timezone"), zone),
                hosts=hosts,
            )


def check_schedule(model: Model) -> Iterator[Problem]:
    """Check that each entry has a task and exactly one well-formed time."""
    for value, hosts in model.distinct("celery_beat_schedule"):
        for name, entry in as_mapping(value).items():
            if entry is not UNKNOWN:
                yield from with_hosts(hosts, _entry(model, ("celery_beat_schedule", name), entry))


def check_size(model: Model) -> Iterator[Problem]:
    """Refuse more entries than beat can get, unless they are written to a database."""
    for host in model.members("celery_beat"):
        entries = as_mapping(model.value(host, "celery_beat_schedule"))
        size = len(json.dumps(entries, default=str, skipkeys=True))
        if size > _MOST_BYTES and model.value(host, "celery_beat_scheduler") != "database":
            yield Problem(
                "celery_beat_schedule",
                f"has {len(entries)} entries of {size // 1000} kB, but systemd can pass only {_MOST_BYTES // 1000} kB "
                "of them to beat",
                "declare some in the application's code, or set celery_beat_scheduler: database",
                hosts=(host,),
            )


def _entry(model: Model, path: Path, entry: object) -> Iterator[Problem]:
    name = str(path[-1])
    if not name.strip() or not name.isprintable():
        yield Problem(
            dotted(path),
            "has a name that can't be shown in logs",
            "give the entry a printable name",
        )
    if not isinstance(entry, Mapping):
        example = "{task: app.tasks.clean, crontab: {minute: 0, hour: 2}}"
        yield not_a_mapping(model, path, entry, f"write it as in {example}")
        return
    body = as_mapping(entry)
    if dict(body) == {"enabled": False}:
        return  # it disables an entry of the code, which has the other keys
    yield from unknown_keys(path, body, tuple(_KEYS))
    yield from _task(model, path, body)
    times = [key for key in _KINDS if key in body]
    if len(times) != 1:
        yield Problem(
            dotted(path),
            "does not say when it is due"
            if not times
            else f"has more than one time ({', '.join(times)})",
            "give it exactly one of crontab, interval and solar",
        )
    for key, check in (
        ("crontab", check_crontab),
        ("interval", check_interval),
        ("solar", check_solar),
    ):
        if key in body and body[key] is not UNKNOWN:
            yield from check(model, (*path, key), body[key])
    for key, option in _KEYS.items():
        value = body.get(key, UNKNOWN)
        wanted = _TYPES.get(option.kind, str)
        if key not in _CHECKED and value is not UNKNOWN and not isinstance(value, wanted):
            yield Problem(
                dotted((*path, key)),
                f"is {kind_of(value)}, but must be {kind_of(wanted())}",
                "write it as such, or remove it",
                value=model.show((*path, key), value),
            )
    yield from _missed(model, path, body)
    for key in as_mapping(body.get("options")):
        near = "" if key in _TAKEN else suggestion(key, _TAKEN, cutoff=0.75)
        # Any other key becomes a property of the message, which may be intended.
        if near:
            yield Problem(
                dotted((*path, "options", key)),
                "is not an option that Celery knows",
                near,
            )
    queue = body.get("queue", UNKNOWN)
    if queue is not UNKNOWN and (not isinstance(queue, str) or not queue):
        yield Problem(
            dotted((*path, "queue")),
            f"is {'empty' if queue == '' else kind_of(queue)}, but must be the name of a queue",
            "write the queue's name, or remove it to let the routes decide",
            value=model.show((*path, "queue"), queue),
        )


def _missed(model: Model, path: Path, body: Mapping[str, object]) -> Iterator[Problem]:
    policy, limit = body.get("missed", UNKNOWN), body.get("missed_limit", UNKNOWN)
    option = _KEYS["missed"]
    if isinstance(policy, str) and policy not in option.choices:
        yield Problem(
            dotted((*path, "missed")),
            "is none of the allowed values",
            f"allowed are {', '.join(option.choices)}",
            value=model.show((*path, "missed"), policy),
        )
    if limit is UNKNOWN:
        return
    option = _KEYS["missed_limit"]
    outside = option.violation(limit) if isinstance(limit, int) else ""
    if outside or isinstance(limit, bool):
        yield Problem(
            dotted((*path, "missed_limit")),
            f"is {outside or kind_of(limit)}",
            f"write a number, {option.bounds}",
            value=model.show((*path, "missed_limit"), limit),
        )
    if "missed" not in body or (policy is not UNKNOWN and policy != "each"):
        yield Problem(
            dotted((*path, "missed_limit")),
            "has no effect without missed: each",
            "add missed: each, or remove it",
        )


def _task(model: Model, path: Path, body: Mapping[str, object]) -> Iterator[Problem]:
    task = body.get("task")
    if "task" not in body:
        yield Problem(dotted((*path, "task")), "is not set", "name the task, as in app.tasks.clean")
    elif task is not UNKNOWN and (
        not isinstance(task, str)
        or not task
        or not task.isprintable()
        or any(c.isspace() for c in task)
    ):
        yield Problem(
            dotted((*path, "task")),
            "is not a task's name",
            "name the task as Celery registers it, as in app.tasks.clean",
            value=model.show((*path, "task"), task),
        )
