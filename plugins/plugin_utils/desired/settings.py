"""Computes the settings of each component that the fleet pins over the application's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .delivery import SETTINGS
from .facts import BeatSchedule, Facts, has_redbeat, has_standby
from .redis_address import RedisAddress, redis_address

# Settings that are dictionaries of options: an inventory that sets one option keeps the others.
_MERGED = (
    "broker_transport_options",
    "result_backend_transport_options",
    "task_publish_retry_policy",
    "broker_use_ssl",
    "redis_backend_use_ssl",
)

# These listen to replies and events, and kombu makes every consumer put back overdue tasks. They may not write to
# queues, so their work would end with an error of Redis.
_NO_WORKERS = ("producer", "flower", "operator")

# A hundred years in seconds, so no task is ever overdue.
_NEVER = 3_153_600_000

# Options of the transport that only one component has.
_TRANSPORT: dict[str, dict[str, Any]] = {
    "operator": {"socket_timeout": 3, "max_retries": 1},
    # Without this, a beat that has lost its connection gives up an entry after 4 s, regardless of the policy.
    "beat": {"connect_retries_timeout": 60},
}

# A person waits for the answer and prefers an early error. With these settings Celery's own commands give up within
# seconds.
_OPERATOR: dict[str, Any] = {
    "broker_connection_retry": False,
    "broker_connection_retry_on_startup": False,
    "broker_connection_max_retries": 0,
    "broker_connection_timeout": 3,
    "task_publish_retry": False,
    "result_backend_always_retry": False,
    "result_backend_max_retries": 1,
    "result_backend_transport_options": {
        "retry_policy": {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        }
    },
    "redis_socket_timeout": 3,
}

_BEAT: dict[str, Any] = {
    # Beat does not use results, so it needs no user on that instance.
    "result_backend": "disabled://",
    # With a result_expires beat would add an entry that deletes expired results.
    "result_expires": None,
    # Its user may not have a mailbox, so beat would try every 5 s. The unit's watchdog checks whether it is alive.
    "beat_enable_remote_control": False,
}

_EMPTY: BeatSchedule = {
    "entries": {},
    "policy": "add",
    "scheduler": "persistent",
    "edited": "keep",
    "declared": {},
    "left_out": [],
}


def _entry(entry: Mapping[str, Any], scheduler: str) -> dict[str, Any]:
    """Return a scheduled entry as beat gets it.

    `override` is left out, because only the check of a release reads it. A disabled entry may be one of the code's, so
    beat must know that it is disabled; in a database it also keeps its other fields.
    """
    if entry.get("enabled", True):
        return {key: value for key, value in entry.items() if key not in ("enabled", "override")}
    if scheduler != "database":
        return {"enabled": False}
    return {key: value for key, value in entry.items() if key != "override"}


def _missed(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what happens to missed runs, for entries that say so."""
    names = ("missed", "missed_limit")
    found = {
        name: {key: entry[key] for key in names if key in entry} for name, entry in entries.items()
    }
    return {name: fields for name, fields in found.items() if fields}


def process_settings(
    facts: Facts,
    component: str,
    password: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    schedule: BeatSchedule | None = None,
    parts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of `settings.json`: the settings that one component of the application gets from the fleet.

    Args:
        facts: The application's facts. A process that may not read the certificate and key of `client` gets them as
            credentials with the files' names.
        component: worker, beat, producer, operator or flower; also its user in Redis.
        password: That user's password.
        defaults: Celery settings that the inventory's override.
        schedule: The schedule, only for beat.
        parts: The enabled parts of the delivery (`delivery.document`), only for workers.
    """
    broker = redis_address(component, password, facts["broker"], facts)
    results = redis_address(component, password, facts["results"], facts)
    beat = (schedule or _EMPTY) if component == "beat" else None
    pins = _shared(facts, component, broker)
    if component == "producer":
        pins.update(_producer(broker, results))
    elif component == "operator":
        pins.update(_OPERATOR)
    pins.update(_BEAT if beat else _results(component, results, pins))
    if facts["routes"] and component != "flower":
        pins["task_routes"] = facts["routes"]
    if beat and beat["policy"] != "refuse":
        pins["beat_schedule"] = {
            name: _entry(entry, beat["scheduler"]) for name, entry in beat["entries"].items()
        }
    for name, value in {**(defaults or {}), **facts["settings"]}.items():
        ours = pins.get(name)
        merge = name in _MERGED and isinstance(ours, dict) and isinstance(value, Mapping)
        pins[name] = {**ours, **value} if merge and ours else value
    options = pins["broker_transport_options"]
    if component in _NO_WORKERS and isinstance(options, Mapping):
        pins["broker_transport_options"] = {**options, "visibility_timeout": _NEVER}
    document: dict[str, Any] = {
        "format": 1,
        "app": facts["name"],
        "component": component,
        "celery": pins,
    }
    if beat:
        document["beat_schedule_policy"] = beat["policy"]
        if has_standby(facts):
            document["beat_standby"] = True
        if beat["scheduler"] == "database":
            document["beat_scheduler"] = beat["scheduler"]
            document["beat_schedule_on_edit"] = beat["edited"]
            if beat["left_out"]:
                document["beat_schedule_left_out"] = [*beat["left_out"]]
            missed = _missed(beat["declared"])
            if missed:
                document["beat_missed"] = missed
    if has_redbeat(facts) and component != "flower":
        document["beat_scheduler"] = "redbeat"
    if component in ("worker", "beat") and pins.get("worker_log_format") == "json":
        # Not a format of Celery's.
        del pins["worker_log_format"]
        pins.pop("worker_task_log_format", None)
        document["log"] = "json"
    if component == "worker" and parts:
        document["delivery"] = dict(parts)
    if facts["metrics"] and component != "flower":
        # Celery's abbreviation for a worker's name: all workers of a host read the same settings.
        file = {"worker": "worker-%n", "beat": "beat"}.get(component)
        document["metrics"] = {"file": f"{facts['state']}/metrics/{file}.json"} if file else {}
    if component == "worker" and facts["metrics"] and (history := int(facts["history"])):
        document["history"] = history * 2**20
    return document


def _shared(facts: Facts, component: str, broker: RedisAddress) -> dict[str, Any]:
    """Return the settings that differ little between components."""
    # Flower sends nothing.
    promise = "inherit" if component == "flower" else facts["delivery"]
    # A half-open connection is noticed within seconds, and no publish or acknowledgement waits for ever. If the primary
    # may move, a new one is there sooner.
    socket_timeout = 5 if broker.options else 10
    transport: dict[str, Any] = {
        "visibility_timeout": int(facts["visibility_timeout"]),
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "unacked_restore_interval": 10,
        "unacked_mutex_expire": 30,
        **broker.options,
        **_TRANSPORT.get(component, {}),
    }
    return {
        "broker_url": broker.url,
        "broker_read_url": None,
        "broker_write_url": None,
        "broker_use_ssl": broker.tls,
        "broker_transport_options": transport,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "task_publish_retry": True,
        "task_publish_retry_policy": {
            "max_retries": 20,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 2,
        },
        # Celery draws each pause at random, from 0 to the longest. With many short ones, their sum of about 12 s is
        # hardly ever less than the time until Redis has restarted or Sentinels have chosen a new primary.
        "result_backend_always_retry": True,
        "result_backend_max_retries": 18,
        "result_backend_max_sleep_between_retries_ms": 2000,
        "redis_socket_timeout": socket_timeout,
        "redis_socket_connect_timeout": 3,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 5,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # For a developer's machine only: tasks would run in the process that sends them.
        "task_always_eager": False,
        "worker_direct": component in ("worker", "operator"),
        **SETTINGS[promise],
    }


def _producer(broker: RedisAddress, results: RedisAddress) -> dict[str, Any]:
    """Return what a producer waits for Redis.

    A visitor waits, and gunicorn ends a process that is silent for 30 s. So a producer bridges a restart of Redis and
    then reports an error. Sending fails about 7 s after the broker has gone. Before sending, it subscribes to the
    answer at the result store, and waits for that as long as the policy's timeout says. The retries are for reading a
    result. A new primary takes longer than a restart.
    """
    return {
        "task_publish_retry_policy": {
            "max_retries": 10 if broker.options else 6,
            "interval_start": 0,
            "interval_step": 0.5,
            "interval_max": 2,
        },
        "result_backend_transport_options": {
            "retry_policy": {"timeout": 15.0 if results.options else 5.0}
        },
        "result_backend_max_retries": 18 if results.options else 13,
    }


def _results(component: str, results: RedisAddress, pins: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a component reaches the results; `pins` has its other options for them."""
    found: dict[str, Any] = {"result_backend": results.url, "redis_backend_use_ssl": results.tls}
    if results.options:
        given = pins.get("result_backend_transport_options", {})
        found["result_backend_transport_options"] = {**given, **results.options}
        # Before 5.6, Celery takes the password from the Sentinels' addresses, but not the user.
        found["redis_username"] = component
    return found
