"""Find, read and check the process's settings file, ``settings.json``.

The file is rendered from the inventory, and systemd passes it to the process
(``LoadCredential=settings.json:…``). Nothing in it is guessed: every mistake is an error that names the file
and the remedy.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery_fleet.common import client_certificate
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.config.entries import Entry, Missed, parse_entries, parse_missed
from celery_fleet.delivery import options as delivery_options
from celery_fleet.delivery import overrides
from celery_fleet.delivery.options import Options

FORMAT = 1
#: Which schedule counts: both, only the inventory's, or only the application's.
ADD, REPLACE, REFUSE = "add", "replace", "refuse"
POLICIES = (ADD, REPLACE, REFUSE)
#: Where beat keeps its schedule, and Celery's class for each.
PERSISTENT, DATABASE, REDBEAT = "persistent", "database", "redbeat"
SCHEDULERS = {
    PERSISTENT: "celery.beat:PersistentScheduler",
    DATABASE: "django_celery_beat.schedulers:DatabaseScheduler",
    REDBEAT: "redbeat.schedulers:RedBeatScheduler",
}
#: What to do with a declared entry of the database that a user has edited.
EDITED = ("keep", "reset")

#: What a log consists of.
LOGS = ("text", "json")

COMPONENTS = ("worker", "beat", "flower", "producer", "operator")
PATH_VARIABLE = "CELERY_FLEET_SETTINGS"
CREDENTIALS_VARIABLE = client_certificate.CREDENTIALS_VARIABLE
CREDENTIAL = "settings.json"

#: Environment variables that Celery reads before any setting, so the fleet removes them.
URL_VARIABLES = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
}

#: Settings that the runtime relies on, unless the inventory overrides them: a process waits for its
#: broker forever, a lost connection cancels no task, and the canary has its queue.
ESSENTIALS: Mapping[str, Mapping[str, Any]] = {
    "worker": {
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_direct": True,
    },
    "beat": {
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
    },
}

#: Settings that the worker itself writes when it starts; pinning them would break it.
UNPINNABLE = frozenset({"include", "imports"})

#: Settings with options for a Redis connection.
_TRANSPORTS = ("broker_transport_options", "result_backend_transport_options")

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_CERT_REQS = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}


@dataclass(frozen=True)
class FleetSettings:
    """The checked content of a settings file.

    Attributes:
        celery: Celery's settings under their lowercase names, in Python's types (``ssl_cert_reqs``, keepalive
            options), without ``beat_schedule``.
        schedule: the entries of ``beat_schedule``; None if the inventory has none.
        schedule_policy: what happens to the application's own entries.
        scheduler: where beat keeps the schedule.
        schedule_edited: what happens to entries that users edited in the database.
        schedule_left_out: the names of entries in the database that stay as they are, as the release lacks their tasks.
        missed: what happens to missed runs of entries, by name; without those for which the inventory says nothing.
        standby: whether this beat is one of several, of which one sends.
        delivery: which parts of the delivery are enabled.
        metrics: whether messages carry their sending time, and whether workers and beat count.
        metrics_file: the file for these counts, None for components that count nothing. ``%n`` stands for the worker's
            name, because one file of settings serves all workers of a host.
        history_size: bytes that the history of tasks may take in the result store; 0 for none.
        log_json: whether the log has lines of JSON.
    """

    component: str
    app: str
    celery: Mapping[str, Any] = field(repr=False)
    schedule: Mapping[str, Entry] | None = None
    schedule_policy: str = ADD
    scheduler: str = PERSISTENT
    schedule_edited: str = EDITED[0]
    schedule_left_out: Sequence[str] = ()
    missed: Mapping[str, Missed] = field(default_factory=dict)
    standby: bool = False
    delivery: Options = field(default_factory=Options)
    metrics: bool = False
    metrics_file: str | None = None
    history_size: int = 0
    log_json: bool = False


def locate(environ: Mapping[str, str]) -> Path:
    """Return the path of this process's settings file.

    Raises:
        FleetError: the environment names none.
    """
    if environ.get(PATH_VARIABLE):
        return Path(environ[PATH_VARIABLE])
    if environ.get(CREDENTIALS_VARIABLE):
        return Path(environ[CREDENTIALS_VARIABLE]) / CREDENTIAL
    raise FleetError(
        f"no settings: neither {PATH_VARIABLE} nor {CREDENTIALS_VARIABLE} is set; start the process"
        f" by its unit (LoadCredential={CREDENTIAL}:…), or set {PATH_VARIABLE} to a settings file"
    )


def read(
    path: Path, component: str | None = None, environ: Mapping[str, str] | None = None
) -> FleetSettings:
    """Read and check a settings file for a component (any, if None).

    ``environ`` (this process's environment, if None) may override a worker's delivery options, because
    one file serves all workers of a host.

    Raises:
        FleetError: names the file, the mistake and the remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise FleetError(
            f"{path}: can't be read ({exc.strerror or exc}); run site.yml again, or check the"
            f" unit's LoadCredential={CREDENTIAL}:…"
        ) from exc
    except UnicodeDecodeError as exc:
        raise FleetError(f"{path}: is not UTF-8; run site.yml to write it again") from exc
    try:
        document = json.loads(text)
    except json.JSONDecodeError as exc:
        raise FleetError(
            f"{path}: is not JSON (line {exc.lineno}, {exc.msg}); run site.yml to write it again"
        ) from exc
    if isinstance(document, Mapping):
        document = overrides.applied(document, os.environ if environ is None else environ)
    return parse(document, str(path), component)


def parse(document: object, source: str, component: str | None = None) -> FleetSettings:
    """Check a settings document that came from ``source``.

    Raises:
        FleetError: lists every mistake.
    """
    if not isinstance(document, Mapping):
        raise FleetError(f"{source}: must hold a JSON object; run site.yml to write it again")
    if document.get("format") != FORMAT:
        raise FleetError(
            f"{source}: has format {document.get('format')!r}, this runtime reads {FORMAT}; run"
            " site.yml to bring both to one version"
        )
    errors: list[str] = []
    its_component = document.get("component")
    if its_component not in COMPONENTS:
        errors.append(f"component is {its_component!r}, not one of {', '.join(COMPONENTS)}")
    elif component is not None and its_component != component:
        errors.append(f"is the file of a {its_component}, but this process is a {component}")
    name = document.get("app")
    if not isinstance(name, str) or not name:
        errors.append("app must be the application's name")
    policy = document.get("beat_schedule_policy", ADD)
    if policy not in POLICIES:
        errors.append(f"beat_schedule_policy is {policy!r}, not one of {', '.join(POLICIES)}")
    scheduler = document.get("beat_scheduler", PERSISTENT)
    if scheduler not in SCHEDULERS:
        errors.append(f"beat_scheduler is {scheduler!r}, not one of {', '.join(SCHEDULERS)}")
    edited = document.get("beat_schedule_on_edit", EDITED[0])
    if edited not in EDITED:
        errors.append(f"beat_schedule_on_edit is {edited!r}, not one of {', '.join(EDITED)}")
    left_out = document.get("beat_schedule_left_out", [])
    if not isinstance(left_out, list) or not all(isinstance(name, str) for name in left_out):
        errors.append("beat_schedule_left_out must be a list of names")
    standby = document.get("beat_standby", False)
    if not isinstance(standby, bool):
        errors.append(f"beat_standby must be true or false, not {standby!r}")
    delivery = Options()
    try:
        delivery = delivery_options.parse(document.get("delivery"))
    except FleetError as exc:
        errors.append(str(exc))
    metrics = document.get("metrics")
    metrics_file = metrics.get("file") if isinstance(metrics, Mapping) else None
    if not isinstance(metrics, Mapping | None) or not isinstance(metrics_file, str | None):
        errors.append("metrics must be a mapping, and its file a path")
    history_size = document.get("history", 0)
    if type(history_size) is not int or history_size < 0:
        errors.append(f"history must be a number of bytes, not {history_size!r}")
    log = document.get("log", "text")
    if log not in LOGS:
        errors.append(f"log is {log!r}, not one of {', '.join(LOGS)}")
    celery = document.get("celery")
    pins: dict[str, Any] = {}
    schedule: dict[str, Entry] | None = None
    if not isinstance(celery, Mapping):
        errors.append("celery must be a mapping of Celery's settings")
    else:
        try:
            pins, schedule = parse_celery(celery)
        except FleetError as exc:
            errors.append(str(exc))
    missed: dict[str, Missed] = {}
    try:
        missed = _missed(schedule or {}, document.get("beat_missed"))
    except FleetError as exc:
        errors.append(str(exc))
    if errors:
        raise FleetError(
            f"{source}: {'; '.join(errors)}; correct the inventory and run site.yml again"
        )
    return FleetSettings(
        component=str(its_component),
        app=str(name),
        celery=pins,
        schedule=schedule,
        schedule_policy=str(policy),
        scheduler=str(scheduler),
        schedule_edited=str(edited),
        schedule_left_out=tuple(left_out),
        missed=missed,
        standby=standby is True,
        delivery=delivery,
        metrics=metrics is not None,
        metrics_file=metrics_file,
        history_size=history_size,
        log_json=log == "json",
    )


def _missed(schedule: Mapping[str, Entry], database: object) -> dict[str, Missed]:
    """Return what happens to missed runs; a beat with a schedule in the database gets only that of each entry."""
    if not isinstance(database, Mapping | None):
        raise FleetError("beat_missed must map entry names to what happens to their missed runs")
    found = {name: entry.missed for name, entry in schedule.items()}
    for name, raw in (database or {}).items():
        if not isinstance(raw, Mapping):
            raise FleetError(f"beat_missed.{name} must be a mapping")
        found[str(name)] = parse_missed(raw)
    return {name: missed for name, missed in found.items() if missed != Missed()}


def parse_celery(
    celery: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Entry] | None]:
    """Return Celery's settings in Python's types, and the schedule (None if there is none).

    Raises:
        FleetError: lists every mistake.
    """
    pins: dict[str, Any] = {}
    schedule: dict[str, Entry] | None = None
    errors: list[str] = []
    for key, value in celery.items():
        try:
            if key in UNPINNABLE:
                raise FleetError(f"{key} can't be pinned, the worker writes it; set it in the app")
            if not _NAME.match(str(key)):
                raise FleetError(f"{key} is not a setting's name: use the lowercase one")
            if key in _TRANSPORTS and isinstance(value, Mapping) and value.get("global_keyprefix"):
                raise FleetError(
                    f"{key}.global_keyprefix is not supported: remove it from celery_app_settings; an application of"
                    " the fleet has its own Redis"
                )
            if key == "beat_schedule":
                schedule = None if value is None else parse_entries(value)
            elif key in client_certificate.TLS_SETTINGS:
                pins[key] = _tls(key, value)
            else:
                pins[key] = _python(value)
        except FleetError as exc:
            errors.append(str(exc))
    if errors:
        raise FleetError("; ".join(errors))
    return pins, schedule


def _tls(key: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    options = client_certificate.resolved(value, os.environ)
    wanted = options.get("ssl_cert_reqs")
    if isinstance(wanted, str):
        name = wanted.lower().removeprefix("cert_")
        if name not in _CERT_REQS:
            raise FleetError(f"{key}.ssl_cert_reqs is {wanted!r}, not required, optional or none")
        options["ssl_cert_reqs"] = _CERT_REQS[name]
    return options


def _python(value: Any) -> Any:
    """Convert JSON values to those that Celery expects: keepalive options have numbers as keys."""
    if isinstance(value, Mapping):
        return {
            key: _keepalive(item) if key == "socket_keepalive_options" else _python(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_python(item) for item in value]
    return value


def _keepalive(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    options: dict[int, Any] = {}
    for key, item in value.items():
        number = getattr(socket, str(key), None) if str(key).startswith("TCP_") else key
        try:
            options[int(str(number if number is None else int(number)))] = item
        except (TypeError, ValueError) as exc:
            raise FleetError(
                f"socket_keepalive_options has the key {one_line(key)!r}: use TCP_KEEPIDLE,"
                " TCP_KEEPINTVL, TCP_KEEPCNT or their numbers"
            ) from exc
    return options


def with_essentials(settings: FleetSettings) -> dict[str, Any]:
    """Return the pins of a process: the runtime's own needs, overridden by the inventory's settings."""
    pins = {**ESSENTIALS.get(settings.component, {}), **settings.celery}
    if settings.scheduler == REDBEAT:
        from celery_fleet.compat import redbeat

        pins.update(redbeat.settings(str(pins["broker_url"])))
    if settings.component != "beat":
        return pins
    database = settings.scheduler in (DATABASE, REDBEAT)
    if database or str(pins.get("result_backend")).startswith("disabled"):
        # Otherwise beat adds celery.backend_cleanup, a task for a queue that it may not write to, and a
        # database would keep that entry.
        pins["result_expires"] = None
    if database or "beat_scheduler" not in pins:
        pins["beat_scheduler"] = SCHEDULERS[settings.scheduler]
    return pins
