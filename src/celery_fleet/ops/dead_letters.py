"""What the operator's command asks about dead letters, answered in the release's Python.

    {"do": "list", "choose": {"queue": "mail", "older": 3600}, "payload": false}
    {"do": "replay", "choose": {"ids": ["6f1e…"]}}
    {"do": "drop", "choose": {"ids": ["6f1e…"]}}

``replay`` and ``drop`` take ids alone, those that a person was told of: what comes meanwhile is not among them.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.delivery.dead_letters.letters import DeadLetter, parsed
from celery_fleet.delivery.dead_letters.store import PAGE, Box, Choice

#: Seconds of the question's own that are left for the answer.
MARGIN = 1.5
#: Different refusals of Redis that are told.
MOST_REASONS = 5


def count(app: Any) -> int:
    """How many dead letters the broker has."""
    with app.connection_for_write() as connection:
        return _box(connection).count()


def answer(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one question.

    Raises:
        FleetError: The broker is not Redis, or the question is none.
    """
    began = time.monotonic()
    choice = _choice(request.get("choose") or {})
    do = request.get("do")
    if do not in ("list", "replay", "drop"):
        raise FleetError(f"{do} is nothing to do with dead letters: use list, replay or drop")
    with app.connection_for_write() as connection:
        box = _box(connection)
        if do == "list":
            payload = bool(request.get("payload"))
            return {"letters": [shown(one, payload) for one in box.choose(choice, payload)]}
        end = began + float(request.get("timeout") or 8.0) - MARGIN
        return _change(box, do, choice.ids, end)


def _box(connection: Any) -> Box:
    if connection.transport.driver_type != "redis":
        raise FleetError("dead letters are kept in Redis alone, and this broker is another")
    return Box(connection.default_channel.client)


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


def _change(box: Box, do: str, ids: tuple[str, ...], end: float) -> dict[str, Any]:
    done, refused, reasons = 0, 0, dict[str, None]()
    for start in range(0, len(ids), PAGE):
        if time.monotonic() > end:
            return _changed(done, len(ids) - done - refused, refused, reasons, late=True)
        letters = box.read(ids[start : start + PAGE], payload=do == "replay")
        for result in box.replay(letters) if do == "replay" else box.drop(letters):
            if isinstance(result, Exception):
                refused += 1
                reasons[one_line(result)] = None
            else:
                done += result
    return _changed(done, len(ids) - done - refused, refused, reasons, late=False)


def _changed(
    done: int, rest: int, refused: int, reasons: Mapping[str, None], *, late: bool
) -> dict[str, Any]:
    return {
        "done": done,
        # Somebody else was first with these.
        "gone": 0 if late else rest,
        "left": rest if late else 0,
        "refused": refused,
        "reasons": list(reasons)[:MOST_REASONS],
    }


def shown(letter: DeadLetter, payload: bool) -> dict[str, Any]:
    """A letter as data; what the message says only where that is asked for."""
    found = asdict(letter)
    del found["digest"]
    message = found.pop("message")
    if payload and message is not None:
        found["payload"] = contents(message)
    return found


def contents(item: str) -> dict[str, Any]:
    """What a message says: arguments where it has some that can be read, else its body, else the item itself."""
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
