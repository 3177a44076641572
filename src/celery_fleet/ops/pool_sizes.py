"""Answer the operator's command about pool sizes, in the release's Python.

    {"do": "list"}
    {"do": "set", "nodes": ["mail@worker1"], "processes": 6, "by": "ana", "why": "a backlog"}
    {"do": "reset", "nodes": ["mail@worker1"], "expected": ["mail@worker1"]}

A size is only kept for a worker that says that it can have it. With a full broker no worker can be asked; then none is
set, and workers notice a reset within `celery_fleet.worker.orders.INTERVAL` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from celery_fleet.common import pool_sizes
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.pool_sizes import HIGHEST, LOWEST, PoolSize
from celery_fleet.delivery.keys import POOL_SIZES
from celery_fleet.ops.replies import redis_of, told

#: Seconds that workers get to start processes, and between two questions how many there are.
PATIENCE = 4.0
INTERVAL = 0.2


def listed(app: Any) -> list[dict[str, Any]]:
    """Return the sizes that the broker keeps, as data."""
    with app.connection_for_write() as connection:
        return _read(redis_of(connection, "pool sizes"))


def answer(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request.

    Returns:
        ``sizes`` that there are now; the nodes that were ``changed``; ``refused``, why a node can't have a size;
        ``before`` and ``workers``, the workers' replies by node before and after the change; and ``unheard``: why no
        worker could be told, or None. If one node is refused, nothing is changed.

    Raises:
        FleetError: The broker is not Redis, no worker can be asked, or the request is wrong.
    """
    do, nodes = request.get("do"), [str(one) for one in request.get("nodes") or ()]
    if do == "set":
        return _set(app, request, nodes)
    if do not in ("list", "reset"):
        raise FleetError(f"{do} is not an action for pool sizes: use list, set or reset")
    with app.connection_for_write() as connection:
        client = redis_of(connection, "pool sizes")
        changed = [node for node in nodes if do == "reset" and client.hdel(POOL_SIZES, node)]
        left = _read(client)
    awaited = [node for node in changed if node in request.get("expected", ())]
    return _answer(app, left, changed, awaited)


def _set(app: Any, request: Mapping[str, Any], nodes: list[str]) -> dict[str, Any]:
    processes = request.get("processes")
    if type(processes) is not int or not LOWEST <= processes <= HIGHEST:
        raise FleetError(f"a worker has {LOWEST} to {HIGHEST} processes, not {processes}")
    by, why = str(request.get("by") or ""), str(request.get("why") or "")
    try:
        before = told(app, "fleet_pool_sizes", nodes)
    except Exception as exc:
        raise FleetError(f"the workers could not be asked: {one_line(exc)}") from exc
    refused = {node: reason for node in nodes if (reason := _refusal(before.get(node)))}
    with app.connection_for_write() as connection:
        client = redis_of(connection, "pool sizes")
        changed = [] if refused else nodes
        for node in changed:
            inventory = str(before[node]["inventory"])
            size = PoolSize(node, processes, inventory, time.time(), by, why)
            if inventory == str(processes):  # there is no difference to keep
                client.hdel(POOL_SIZES, node)
            else:
                client.hset(POOL_SIZES, *size.entry)
        left = _read(client)
    return {**_answer(app, left, changed, changed), "refused": refused, "before": before}


def _answer(
    app: Any, left: list[dict[str, Any]], changed: list[str], awaited: list[str]
) -> dict[str, Any]:
    replies: dict[str, dict[str, Any]] = {}
    unheard, end = None, time.monotonic() + PATIENCE
    while changed:
        try:
            replies |= told(app, "fleet_pool_sizes", awaited)
        except Exception as exc:  # noqa: BLE001  # the sizes are kept, or reset, all the same
            unheard = one_line(exc)
        if unheard or time.monotonic() > end or all(_obeyed(replies.get(n)) for n in awaited):
            break
        time.sleep(INTERVAL)
    return {
        "sizes": left,
        "changed": changed,
        "refused": {},
        "before": {},
        "workers": replies,
        "unheard": unheard,
    }


def _obeyed(reply: Mapping[str, Any] | None) -> bool:
    """Return whether a worker has as many processes as it should, or can't have them."""
    if not reply or "processes" not in reply or reply.get("missing"):
        return bool(reply)
    return bool(reply["lowest"] <= reply["processes"] <= reply["highest"])


def _refusal(reply: Mapping[str, Any] | None) -> str:
    """Return why a worker can't be scaled, from its reply; an empty string if it can."""
    if reply is None or reply.get("later"):
        return "it does not answer"
    return str(reply.get("why_not") or reply.get("error") or "")


def _read(client: Any) -> list[dict[str, Any]]:
    return [
        {**asdict(size), "words": size.words}
        for size in pool_sizes.parse(client.hgetall(POOL_SIZES)).values()
    ]
