"""Lists the bounds of the roles' numbers, except those in a table of options.

A number outside these bounds would fail, or have no meaning, on a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .option import outside


@dataclass(frozen=True)
class Range:
    """The bounds of a number.

    Attributes:
        lowest: Smallest number.
        highest: Largest number, if there is one.
        remedy: What to write instead.
        group: The group of the hosts that use the number.
    """

    lowest: float
    highest: float | None
    remedy: str
    group: str

    def violation(self, number: float) -> str:
        """Return how a number violates the range, such as `below 1`; an empty string if it does not."""
        return outside(number, self.lowest, self.highest)


_FLEET: Final = "fleet"
_WORKERS: Final = "celery_workers"
_SECONDS: Final = "write seconds, 1 or more"
_PERCENTAGE: Final = "write a percentage from 1 to 100, without the sign"
_WORKERS_AT_A_TIME: Final = "write 1 or more; 1 restarts one worker after the other"
_RELEASES: Final = "write how many releases to keep beside those in use, 0 or more"

RANGES: Final[Mapping[str, Range]] = {
    "celery_restart_min_capacity": Range(1, 100, _PERCENTAGE, _WORKERS),
    "celery_restart_batch": Range(1, None, _WORKERS_AT_A_TIME, _WORKERS),
    "celery_canary_seconds": Range(0, 86_400, "write seconds, 0 to 86400", _WORKERS),
    "celery_canary_min_tasks": Range(0, None, "write a number of tasks, 0 or more", _WORKERS),
    "celery_canary_max_failures": Range(0, 100, "write percentage points, 0 to 100", _WORKERS),
    "celery_canary_max_slowdown": Range(1, None, "write a factor, 1 or more", _WORKERS),
    "celery_canary_max_memory": Range(1, None, "write a factor, 1 or more", _WORKERS),
    "celery_canary_max_growth": Range(0, None, "write KiB, 0 or more", _WORKERS),
    # Celery reads 0 as its own default, and with less beat never sleeps.
    "celery_beat_max_loop_interval": Range(1, None, _SECONDS, "celery_beat"),
    "celery_beat_start_timeout": Range(1, None, _SECONDS, "celery_beat"),
    "flower_start_timeout": Range(1, None, _SECONDS, "flower"),
    "redis_start_timeout": Range(1, None, _SECONDS, "redis"),
    "celery_release_keep": Range(0, None, _RELEASES, _FLEET),
    "celery_release_timeout": Range(1, None, _SECONDS, _FLEET),
    "celery_release_import_timeout": Range(1, None, _SECONDS, _FLEET),
    "celery_release_compile_timeout": Range(1, None, _SECONDS, _FLEET),
    "celery_app_history_mb": Range(0, 10_000, "write megabytes, 0 to 10000", _FLEET),
    "celery_exporter_interval": Range(5, 300, "write seconds, 5 to 300", _FLEET),
    "verify_canary_timeout": Range(1, None, _SECONDS, _FLEET),
    "verify_timeout": Range(1, None, _SECONDS, _FLEET),
    "web_proxy_read_timeout": Range(1, None, _SECONDS, _FLEET),
    "web_proxy_send_timeout": Range(1, None, _SECONDS, _FLEET),
    "pki_renew_before_days": Range(0, None, "write days, 0 or more; 30 is the default", _FLEET),
}
