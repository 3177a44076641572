"""Answer the operator's commands about pauses, in the release's Python.

    {"do": "list"}
    {"do": "pause", "targets": ["queue:mail"], "by": "ana", "why": "the provider is down", "expected": ["mail@worker1"]}
    {"do": "resume", "targets": ["queue:mail"], "by": "ana", "why": null, "expected": […]}
    {"do": "ask", "expected": […]}

``ask`` has the workers read the pauses again and say how many tasks of paused queues still run. With a full broker no
worker can be asked; a pause is refused then, and workers notice a resume within
`celery_fleet.worker.orders.INTERVAL` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from celery_fleet.common import pauses
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.pauses import Pause
from celery_fleet.common.text import shown
from celery_fleet.delivery.keys import PAUSES
from celery_fleet.ops.replies import redis_of, told


def listed(app: Any) -> list[dict[str, Any]]:
    """Return the pauses that the broker keeps, as data."""
    with app.connection_for_write() as connection:
        return [_shown(pause) for pause in _read(redis_of(connection, "pauses"))]


def answer(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request.

    Returns:
        ``pauses`` that there are now, the ``changed`` targets, the ``workers``' replies by node, and ``unheard``: why
        no worker could be told, or None.

    Raises:
        FleetError: The broker is not Redis, or the request is unknown.
    """
    do, targets = request.get("do"), [str(one) for one in request.get("targets") or ()]
    if do not in ("list", "pause", "resume", "ask"):
        raise FleetError(f"{do} is not an action for pauses: use list, pause, resume or ask")
    with app.connection_for_write() as connection:
        client = redis_of(connection, "pauses")
        change = {"pause": _pause, "resume": _resume}.get(do)
        by, why = shown(request.get("by") or ""), request.get("why")
        why = None if why is None else shown(why)
        changed = [one for one in targets if change and change(client, one, by, why)]
        left = [_shown(pause) for pause in _read(client)]
    replies, unheard = ({}, None) if do == "list" else _tell(app, request.get("expected") or ())
    return {"pauses": left, "changed": changed, "workers": replies, "unheard": unheard}


def _pause(client: Any, target: str, by: str, why: str | None) -> bool:
    """Pause a target; return False if the same person has paused it for the same reason before."""
    pause = Pause(target, time.time(), by, why or "")
    if any(replace(one, since=pause.since) == pause for one in _read(client)):
        return False
    client.hset(PAUSES, *pause.entry)
    return True


def _resume(client: Any, target: str, by: str, why: str | None) -> bool:
    """End a person's own pause of a target, or else another person's; return False if there is none.

    If there are several, none is ended without a reason, because others may rely on theirs.
    """
    found = [
        (field, pause)
        for field, value in client.hgetall(PAUSES).items()
        for pause in pauses.parse({field: value})
        if pause.target == target and why in (None, pause.why)
    ]
    fields = [field for field, pause in found if pause.by == by] or [field for field, _ in found]
    if not fields or (why is None and len(fields) > 1):
        return False
    return bool(client.hdel(PAUSES, *fields))


def _read(client: Any) -> list[Pause]:
    return pauses.parse(client.hgetall(PAUSES))


def _shown(pause: Pause) -> dict[str, Any]:
    return {**asdict(pause), "words": pause.words}


def _tell(app: Any, expected: Iterable[str]) -> tuple[dict[str, Any], str | None]:
    """Have all workers read the pauses; return their replies, or why they can't be asked."""
    try:
        return told(app, "fleet_pauses", map(str, expected)), None
    except Exception as exc:  # noqa: BLE001  # the pause is kept all the same
        return {}, one_line(exc)
