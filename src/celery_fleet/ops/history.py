"""Read what became of a task from the history in the result store; :mod:`celery_fleet.worker.history` writes it."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from celery_fleet.common.small_file import DAMAGED
from celery_fleet.delivery.keys import HISTORY

#: Entries that are read at a time.
PAGE = 100

#: Bytes that an entry may have when it is unpacked. One of a worker has about 40 kB.
LARGEST = 10_000_000

#: Seconds by which clocks of hosts may differ.
SKEW = 60.0

#: Names of the fields of a record.
FIELDS = (
    *("id", "name", "queue", "origin", "sent", "eta", "received", "started", "ended", "state"),
    "detail",
)

#: Those that are times, and the last one that is a date: the year 9999.
TIMES = ("sent", "eta", "received", "started", "ended")
LATEST = 253_402_300_799


def unpacked(data: bytes) -> bytes:
    """Return the document of an entry as text; nothing if it is damaged or too large."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(data, LARGEST)
    except zlib.error:
        return b""
    return text if reader.eof else b""


def records(data: bytes, task_id: str) -> Iterator[dict[str, Any]]:
    """Yield what an entry says about a task, with `node` and `release`; nothing of what is damaged."""
    text = unpacked(data)
    if json.dumps(task_id).encode() not in text:
        return
    try:
        document = json.loads(text)
        node, release, tasks = str(document["node"]), document["release"], list(document["tasks"])
    except DAMAGED:
        return
    for values in tasks:
        if isinstance(values, list) and len(values) == len(FIELDS) and _is_sound(values):
            found = dict(zip(FIELDS, values, strict=True))
            if found["id"] == task_id:
                yield {**found, "node": node, "release": release and str(release)}


def _is_sound(values: list[Any]) -> bool:
    """Return whether a record is as a worker writes it. Every task can write to the history."""
    found = dict(zip(FIELDS, values, strict=True))
    times = [found[name] for name in TIMES if found[name] is not None]
    return (
        all(isinstance(found[name], str) for name in ("id", "name", "queue", "state"))
        and isinstance(found["origin"], str | None)
        and isinstance(found["detail"], str | int | float | None)
        and found["received"] is not None
        and all(isinstance(one, int | float) and 0 <= one <= LATEST for one in times)
    )


def search(client: Any, task_id: str, seconds: float) -> dict[str, Any]:
    """Search the history for a task, the newest entries first.

    Args:
        client: A client of the result store.
        task_id: The task's id.
        seconds: How long to search at most.

    Returns:
        `runs`: for each time that a worker received the task, what is known of it, the oldest first. `since`: the time
        (Unix) that the search got back to, or that the history begins; None if there is no history. `whole`: whether it
        got to the beginning, or to the time when the task was sent.
    """
    end = time.monotonic() + seconds
    runs: dict[tuple[str, float], dict[str, Any]] = {}
    since: float | None = None
    sent: float | None = None
    last = "+"
    while True:
        entries = client.xrevrange(HISTORY, max=last, min="-", count=PAGE)
        for number, fields in entries:
            since = _moment(number)
            for record in records(_field(fields), task_id):
                # The newest record of a run knows the most.
                runs.setdefault((record["node"], record["received"]), record)
                sent = min(filter(None, (sent, record["sent"])), default=None)
        before_it = sent is not None and since is not None and since < sent - SKEW
        if len(entries) < PAGE or before_it or time.monotonic() >= end:
            whole = len(entries) < PAGE or before_it
            break
        last = f"({_text(entries[-1][0])}"
    return {
        "runs": sorted(runs.values(), key=lambda run: run["received"]),
        "since": since,
        "whole": whole,
    }


def _moment(number: Any) -> float:
    """Return the time of an entry, which is in its number."""
    return int(_text(number).partition("-")[0]) / 1000


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _field(fields: Mapping[Any, Any]) -> bytes:
    found = fields.get(b"b", fields.get("b", b""))
    return found if isinstance(found, bytes) else str(found).encode()
