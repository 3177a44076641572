"""What may be asked of workers, as Celery calls it; both the command and who asks for it know these."""

from __future__ import annotations

METHODS = (
    "active",
    "active_queues",
    "clock",
    "conf",
    "ping",
    "query_task",
    "registered",
    "report",
    "reserved",
    "revoked",
    "scheduled",
    "stats",
)
