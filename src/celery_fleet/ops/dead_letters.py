"""Answer the operator's command about dead letters, in the release's Python.

    {"do": "list", "choose": {"queue": "mail", "older": 3600}, "payload": false}
    {"do": "replay", "choose": {"ids": ["6f1e…"]}, "last_seen": {"6f1e…": 1795777200.25}}
    {"do": "drop", "choose": {"ids": ["6f1e…"]}, "last_seen": {"6f1e…": 1795777200.25}}

``replay`` and ``drop`` only accept ids, those of letters that have been counted: letters that arrive later are not
affected. One that arrives later with the same id has another ``last_seen``.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.delivery.dead_letters.letters import DeadLetter, parsed
from celery_fleet.delivery.dead_letters.store import Choice, DeadLetterStore
from celery_fleet.ops.replies import redis_of

#: Seconds of the request's timeout to keep for returning the answer.
MARGIN = 1.5
#: Number of different refusals of Redis to report.
MOST_REASONS = 5


def count(app: Any) -> int:
    """Return the number of dead letters in the broker."""
    with app.connection_for_write() as connection:
        return _store(connection).count()


def answer(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request.

    Raises:
        FleetError: The broker is not Redis, or the request is unknown.
    """
    began = time.monotonic()
    choice = _choice(request.get("choose") or {})
    do = request.get("do")
    if do not in ("list", "replay", "drop"):
        raise FleetError(f"{do} is not an action for dead letters: use list, replay or drop")
    with app.connection_for_write() as connection:
        store = _store(connection)
        if do == "list":
            payload = bool(request.get("payload"))
            return {"letters": [shown(one, payload) for one in store.choose(choice, payload)]}
        end = began + float(request.get("timeout") or 8.0) - MARGIN
        return _change(store, do, choice.ids, request.get("last_seen") or {}, end)


def _store(connection: Any) -> DeadLetterStore:
    return DeadLetterStore(redis_of(connection, "dead letters"))


def _choice(given: Mapping[str, Any]) -> Choice:
    def text(name: str) -> str | None:
        return None if given.get(name) is None else str(given[name])

    def number(name: str) -> float | None:
        return None if given.get(name) is None else float(given[name])

    return Choice(
        queue=text("queue"),
        task=text("task"),
        reason=text("reason"),
        older=number("older"),
        newer=number("newer"),
        ids=tuple(str(one) for one in given.get("ids") or ()),
    )


def _change(
    store: DeadLetterStore, do: str, ids: tuple[str, ...], seen: Mapping[str, float], end: float
) -> dict[str, Any]:
    done, refused, reasons = 0, 0, dict[str, None]()
    for found in store.pages(ids, payload=do == "replay"):
        if time.monotonic() > end:
            return _changed(done, len(ids) - done - refused, refused, reasons, late=True)
        letters = [one for one in found if seen.get(one.id, one.last_seen) == one.last_seen]
        for result in store.replay(letters) if do == "replay" else store.drop(letters):
            if isinstance(result, Exception):
                refused += 1
                reasons[redact(one_line(result))] = None
            else:
                done += result
    return _changed(done, len(ids) - done - refused, refused, reasons, late=False)


def _changed(
    done: int, rest: int, refused: int, reasons: Mapping[str, None], *, late: bool
) -> dict[str, Any]:
    return {
        "done": done,
        # Another caller has already replayed or dropped these, and they may have become dead letters again.
        "gone": 0 if late else rest,
        "left": rest if late else 0,
        "refused": refused,
        "reasons": list(reasons)[:MOST_REASONS],
    }


def shown(letter: DeadLetter, payload: bool) -> dict[str, Any]:
    """Return a letter as data, with the message's content only if it is requested."""
    found = asdict(letter)
    message = found.pop("message")
    if payload and message is not None:
        found["payload"] = contents(message)
    return found


def contents(item: str) -> dict[str, Any]:
    """Return a message's content: its arguments if they can be read, else its body, else the whole item."""
    message = parsed(item)
    if "body" not in message:
        return {"item": item.encode(errors="backslashreplace").decode()}
    properties, body = message.get("properties"), message["body"]
    text = body
    try:
        if isinstance(properties, Mapping) and properties.get("body_encoding") == "base64":
            text = base64.b64decode(body).decode()
        decoded = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        decoded = None
    found: dict[str, Any] = {"headers": message.get("headers")}
    if isinstance(decoded, list) and len(decoded) == 3:
        return {**found, "args": decoded[0], "kwargs": decoded[1], "options": decoded[2]}
    if isinstance(decoded, Mapping) and "task" in decoded:
        return {**found, "args": decoded.get("args"), "kwargs": decoded.get("kwargs")}
    return {**found, "body": text}
