"""Translates a promise on delivery to Celery's settings and to parts of the runtime, for each worker.

Pure functions on the control node. `knobs` are a host's variables by the keys of `VARIABLES`; the table of options has
the defaults of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .worker_options import DELIVERY

# Celery's settings for each promise. A task that killed its process is retried like a failed one, so it ends with its
# last retry. Put back into its queue (`reject`), it would kill one process after another.
SETTINGS: dict[str, dict[str, Any]] = {
    "inherit": {},
    "at_least_once": {
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
    },
    "at_most_once": {
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
    },
}
# A worker reads this variable beside its settings file if its delivery differs from the application's.
VARIABLE = "CELERY_FLEET_DELIVERY"
# Seconds of a lease, and so the visibility timeout of an application if all its workers renew what they hold.
LEASE = 300
# Parts that need the atomic fetch.
ATOMIC_PARTS = ("lease", "hand_back", "carry", "outage")
# Pools without an event loop that a broker could block: each greenlet waits for the broker by itself.
WITHOUT_LOOP = ("gevent", "eventlet")

# The variable behind each knob.
VARIABLES = {
    "fetch": "celery_worker_fetch",
    "lease": "celery_worker_lease",
    "hand_back": "celery_worker_requeue_on_crash",
    "carry": "celery_worker_keep_tasks_on_reconnect",
    "outage": "celery_worker_outage_guard",
    "dead_letters": "celery_worker_dead_letters",
    "unknown_delay": "celery_worker_unknown_task_retry_delay",
    "unknown_for": "celery_worker_unknown_task_retention",
    "poison_deaths": "celery_worker_max_crashes_per_task",
    "dead_letters_keep": "celery_worker_max_dead_letters",
    "failed_keep": "celery_worker_max_failed_dead_letters",
}
_DEFAULTS = {option.name: option.default for option in DELIVERY}
_KNOBS: dict[str, Any] = {
    **{knob: _DEFAULTS[variable] for knob, variable in VARIABLES.items()},
    "stock_visibility": 3600,
}
# The runtime's numbers: its name -> our name, and the type.
_NUMBERS: dict[str, tuple[str, type[int | float]]] = {
    "unknown_delay": ("unknown_delay", float),
    "unknown_for": ("unknown_for", float),
    "deaths": ("poison_deaths", int),
    "keep": ("dead_letters_keep", int),
    "failed": ("failed_keep", int),
    "stock_visibility": ("stock_visibility", float),
}


def promise_of(options: Mapping[str, Any], delivery: str) -> str:
    """Return the promise of a worker with these options: its own, or else the application's."""
    return str(options.get("delivery") or delivery)


def parts(
    delivery: str,
    knobs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return which parts of the delivery are on, under the runtime's names (`celery_fleet.delivery.options`).

    Args:
        delivery: celery_app_delivery.
        knobs: See above.
        options: A worker's own options over the defaults of all; without them the application's delivery is returned.
    """
    known, own = {**_KNOBS, **(knobs or {})}, options or {}
    promise = promise_of(own, delivery)
    fetch = str(own.get("fetch") or known["fetch"])
    if fetch == "auto":
        fetch = "atomic" if promise == "at_least_once" else "stock"
    atomic = fetch == "atomic"
    on = {name: atomic and bool(known[name]) for name in ATOMIC_PARTS}
    on["outage"] = on["outage"] and own.get("pool") not in WITHOUT_LOOP
    return {
        "profile": promise,
        "fetch": fetch,
        **on,
        "dead_letters": promise == "at_least_once" and bool(known["dead_letters"]),
        **{name: kind(known[ours]) for name, (ours, kind) in _NUMBERS.items()},
    }


def document(delivery: str, knobs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return `delivery` of the workers' settings file; empty if everything is Celery's own."""
    found = parts(delivery, knobs)
    return {} if _is_stock(found) else found


def override(
    delivery: str,
    knobs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return how a worker differs from its settings file; empty if it does not.

    `celery` has settings that override the file's, `unset` the names of settings in the file that are left to the
    application, and `delivery` options that override the file's.

    Args:
        delivery: celery_app_delivery.
        knobs: See above.
        options: The worker's options over the defaults of all.
        settings: celery_app_settings, which win over any promise.
    """
    written, wanted = document(delivery, knobs), parts(delivery, knobs, options)
    differing = {
        name: value
        for name, value in wanted.items()
        if name not in written or written[name] != value
    }
    if not written and _is_stock(wanted):
        differing = {}
    before, after = SETTINGS[delivery], SETTINGS[str(wanted["profile"])]
    free = [name for name in {**before, **after} if name not in (settings or {})]
    found = {
        "celery": {n: after[n] for n in free if n in after and after[n] != before.get(n)},
        "unset": [n for n in free if n not in after],
        "delivery": differing,
    }
    return {name: value for name, value in found.items() if value}


def variable(override: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variable that tells a worker how it differs from its settings file."""
    return {VARIABLE: json.dumps(override, sort_keys=True)} if override else {}


def fetches_atomically(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None,
    delivery: str,
    knobs: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether any worker of the application takes tasks atomically."""
    return any(
        parts(delivery, knobs, {**(defaults or {}), **(options or {})})["fetch"] == "atomic"
        for options in instances.values()
    )


def keeps_tasks_on_reconnect(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None,
    delivery: str,
    knobs: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether every worker of the application keeps what it has fetched when it connects again."""
    return all(
        parts(delivery, knobs, {**(defaults or {}), **(options or {})})["carry"]
        for options in instances.values()
    )


def _is_stock(found: Mapping[str, Any]) -> bool:
    return (found["profile"], found["fetch"]) == ("inherit", "stock")
