"""The methods of Celery's inspect that both the operator's command and the release's program support."""

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
