"""Numbers of which the specs say the type alone: what is beyond these bounds would fail, or mean nothing, on a host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    FLEET,
    Model,
    Problem,
    as_number,
    number_text,
)

_WORKERS: Final = "celery_workers"
_SECONDS: Final = "write seconds, 1 or more"
_PERCENTAGE: Final = "write a percentage from 1 to 100, without the sign"
_WORKERS_AT_A_TIME: Final = "write 1 or more; 1 restarts one worker after the other"
_RELEASES: Final = "write how many releases stay beside those in use, 0 or more"

# Lowest and highest, what to write, and whose hosts it concerns.
_RANGES: Final[Mapping[str, tuple[float, float | None, str, str]]] = {
    "celery_restart_min_capacity": (1, 100, _PERCENTAGE, _WORKERS),
    "celery_restart_batch": (1, None, _WORKERS_AT_A_TIME, _WORKERS),
    "celery_worker_start_timeout": (1, None, _SECONDS, _WORKERS),
    # Celery takes 0 for its own default, and with less beat never sleeps.
    "celery_beat_max_loop_interval": (1, None, _SECONDS, "celery_beat"),
    "celery_beat_start_timeout": (1, None, _SECONDS, "celery_beat"),
    "celery_producer_web_start_timeout": (1, None, _SECONDS, "celery_producers"),
    "flower_start_timeout": (1, None, _SECONDS, "flower"),
    "redis_start_timeout": (1, None, _SECONDS, "redis"),
    "celery_release_keep": (0, None, _RELEASES, FLEET),
    "celery_release_timeout": (1, None, _SECONDS, FLEET),
    "verify_canary_timeout": (1, None, _SECONDS, FLEET),
    "verify_timeout": (1, None, _SECONDS, FLEET),
    "web_proxy_read_timeout": (1, None, _SECONDS, FLEET),
    "pki_renew_before_days": (0, None, "write days, 0 or more; 30 is the default", FLEET),
}


def check_ranges(model: Model) -> Iterator[Problem]:
    """Each number in its range."""
    for name, (lowest, highest, remedy, group) in _RANGES.items():
        for value, hosts in model.distinct(name, model.members(group)):
            number = as_number(value)
            if number is None:
                continue
            if number < lowest or (highest is not None and number > highest):
                what = f"below {number_text(lowest)}" if number < lowest else f"above {highest}"
                yield Problem(
                    name, f"is {what}", remedy, value=model.show((name,), value), hosts=hosts
                )
