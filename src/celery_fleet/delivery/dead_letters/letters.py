"""Dead letters: messages that can't be run, or of tasks that failed for good. They are kept together with the reason.

Each is a JSON document in the hash :data:`~celery_fleet.delivery.keys.DEAD_LETTERS`, by id. A sorted set contains the
ids, scored by the time when they were last seen. A single script makes each change atomically. Scripts that move a
message write it to the new place first. If Redis refuses that (an ACL without ``fleet:*``, no memory left), the message
is still in the old place.

Standard library only: the hand-back parks messages without a release.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery_fleet.common.errors import one_line
from celery_fleet.common.redact import redact
from celery_fleet.delivery import keys
from celery_fleet.delivery.messages import SEPARATOR, FetchedMessage, neutral
from celery_fleet.delivery.scripts import Script

UNKNOWN, UNDECODABLE, MALFORMED = "unknown", "undecodable", "malformed"
INVALID, POISON, FAILED = "invalid", "poison", "failed"
REASONS = (UNKNOWN, UNDECODABLE, MALFORMED, INVALID, POISON, FAILED)

#: Prefix of the headers that the fleet adds to a message.
OWN_HEADERS = "x-fleet-"
#: Number of characters of a detail that are kept.
LONGEST_DETAIL = 300

#: Stores one message. At its memory limit Redis refuses commands that add data, unless the script has written before.
#: That is why it starts with an HDEL that deletes nothing. The message is removed from ``unacked`` last, so that it
#: stays there if Redis refuses a command.
#: KEYS: dead letters, their index, unacked, unacked_index. ARGV: tag ("" for none); id; the id as JSON without quotes;
#: digest; when first seen ("" for now); the rest of the document; how many letters to keep.
#: Returns 0 if the tag is no longer there, else 1; how many old letters were dropped; the letter's id.
PARK = Script("""
redis.call('HDEL', KEYS[1], '')
if ARGV[1] ~= '' and not redis.call('HGET', KEYS[3], ARGV[1]) then
  redis.call('ZREM', KEYS[4], ARGV[1])
  return {0, 0, ''}
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', tonumber(time[1]), tonumber(time[2]))
local head = '^{"count": (%d+), "first_seen": ([%d%.]+), "digest": "(%x*)"'
local id, text, count, first = ARGV[2], ARGV[3], 1, ARGV[5]
if first == '' or tonumber(first) > tonumber(now) then first = now end
local before = redis.call('HGET', KEYS[1], id)
if before and select(3, string.match(before, head)) ~= ARGV[4] then
  -- Don't overwrite another message with the same id.
  id, text = id .. '~' .. ARGV[4], text .. '~' .. ARGV[4]
  before = redis.call('HGET', KEYS[1], id)
end
if before then
  local seen, since = string.match(before, head)
  count = (tonumber(seen) or 0) + 1
  if since and tonumber(since) < tonumber(first) then first = since end
end
redis.call('HSET', KEYS[1], id, '{"count": ' .. count .. ', "first_seen": ' .. first .. ', "digest": "' .. ARGV[4] ..
  '", "last_seen": ' .. now .. ', "id": "' .. text .. '", ' .. ARGV[6])
redis.call('ZADD', KEYS[2], now, id)
if ARGV[1] ~= '' then
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
end
local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[7])
if over > 0 then
  -- Limited because of Lua's stack, and because other clients have to wait.
  local old = redis.call('ZRANGE', KEYS[2], 0, math.min(over, 1000) - 1)
  redis.call('HDEL', KEYS[1], unpack(old))
  redis.call('ZREM', KEYS[2], unpack(old))
  return {1, #old, id}
end
return {1, 0, id}
""")

#: Replaces the entry of a delivery in ``unacked``. KEYS: unacked. ARGV: tag, value.
NOTE = Script("""
if not redis.call('HGET', KEYS[1], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
""")


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be run, or of a task that failed for good.

    Attributes:
        id: The message's id, or one that was made if it has none.
        task: Its task's name, if that could be read.
        key: The list that it came from; ``queue`` is the same without its priority.
        detail: The reason in words, without the content of the message.
        node: The worker that parked it last.
        first_seen: Unix time by Redis's clock, like ``last_seen``.
        count: How often it was parked since it was last replayed.
        size: Bytes of the message.
        message: The item of the list; None if it was not read.
    """

    id: str
    task: str | None
    queue: str
    key: str
    reason: str
    detail: str
    node: str
    first_seen: float
    last_seen: float
    count: int
    size: int
    message: str | None = None

    @classmethod
    def parse(cls, text: str | bytes) -> DeadLetter:
        """Return the letter in a document.

        Raises:
            ValueError: It is not a letter.
        """
        try:
            raw = json.loads(text)
            return cls(
                id=str(raw["id"]),
                task=None if raw["task"] is None else str(raw["task"]),
                queue=str(raw["queue"]),
                key=str(raw["key"]),
                reason=str(raw["reason"]),
                detail=str(raw["detail"]),
                node=str(raw["node"]),
                first_seen=float(raw["first_seen"]),
                last_seen=float(raw["last_seen"]),
                count=int(raw["count"]),
                size=int(raw["size"]),
                message=raw.get("message"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"this is not a dead letter ({type(error).__name__}: {error})"
            ) from None

    def item(self) -> bytes:
        """Return the original item for its list, without the fleet's additions.

        Raises:
            ValueError: The letter was read without its message.
        """
        if self.message is None:
            raise ValueError(f"dead letter {self.id} was read without its message")
        fresh = {"retries": 0} if self.reason == FAILED else {}
        return replayed(self.message, fresh).encode(errors="surrogateescape")


def text_of(item: bytes | str) -> str:
    """Return an item of a list as text, preserving bytes that are not UTF-8."""
    return item if isinstance(item, str) else item.decode(errors="surrogateescape")


def queue_of(key: str) -> str:
    """Return the queue that a list belongs to."""
    return key.partition(SEPARATOR)[0]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def parsed(item: str) -> Mapping[str, Any]:
    """Return the message in an item of a list; an empty mapping if the item is not a JSON object."""
    try:
        return _mapping(json.loads(item))
    except (ValueError, RecursionError):
        return {}


def _is_base64(message: Mapping[str, Any]) -> bool:
    return bool(_mapping(message.get("properties")).get("body_encoding") == "base64")


def _body(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the body of a message of protocol 1; an empty mapping for others, or if it is not JSON."""
    body = message.get("body")
    try:
        if _is_base64(message):
            body = base64.b64decode(body or "")
        return _mapping(json.loads(body or "null"))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        return {}


def identity(message: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the id and the task of a message, or None for each that is missing. Protocol 1 has them in the body."""
    found = _mapping(message.get("headers"))
    properties = _mapping(message.get("properties"))
    if "task" not in found:
        found = _body(message)
    texts = (found.get("id") or properties.get("correlation_id"), found.get("task"))
    identifier, task = (text if isinstance(text, str) and text else None for text in texts)
    return identifier, task


def digest_of(item: str, message: Mapping[str, Any]) -> str:
    """Return a digest that is the same for two deliveries of one message, and different for different messages."""
    headers = {
        name: value
        for name, value in _mapping(message.get("headers")).items()
        if not name.startswith(OWN_HEADERS) and name != "redelivered"
    }
    text = json.dumps([message.get("body"), headers], sort_keys=True) if message else item
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def header(message: Mapping[str, Any], name: str) -> float:
    """Return the number in one of the fleet's headers; 0 if it is missing or invalid."""
    value = _mapping(message.get("headers")).get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if math.isfinite(value) and value > 0 else 0.0


def replayed(item: str, fresh: Mapping[str, Any]) -> str:
    """Return the item that a replay puts into the list: the message with ``fresh`` headers instead of the fleet's.

    As a dead letter it did not wait for a worker, and alerts and autoscaling must not count that time. So its sending
    time becomes that of the replay. The history searches back to the first one, which another header keeps. An
    ``expires`` that has passed is removed, because the worker would drop the task.
    """
    message = parsed(item)
    headers = message.get("headers")
    if not isinstance(headers, Mapping) or not isinstance(message.get("properties"), Mapping):
        return item
    kept = {name: value for name, value in headers.items() if not name.startswith(OWN_HEADERS)}
    if keys.SENT in headers:
        kept[keys.FIRST_SENT] = headers.get(keys.FIRST_SENT, headers[keys.SENT])
        kept[keys.SENT] = round(time.time(), 3)
    made = {**neutral(message), "headers": _without_past(kept) | dict(fresh)}
    body = _body(message)
    current = _without_past(body)
    if current != body:
        text = json.dumps(current)
        made["body"] = base64.b64encode(text.encode()).decode() if _is_base64(message) else text
    return json.dumps(made)


def _without_past(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a task's headers, or of its body in protocol 1, without an ``expires`` that has passed."""
    made = dict(fields)
    try:
        expires = datetime.fromisoformat(made.get("expires", ""))
    except (TypeError, ValueError):  # Celery refuses such a message
        return made
    # As in Celery, a time without a zone is in UTC.
    if (expires if expires.tzinfo else expires.replace(tzinfo=UTC)) <= datetime.now(UTC):
        del made["expires"]
    return made


def described(error: BaseException | str) -> str:
    """Return an error as a detail: one line of limited length, without secrets."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    shown = redact(one_line(text))
    return shown if len(shown) <= LONGEST_DETAIL else f"{shown[: LONGEST_DETAIL - 1]}…"


def misshapen(payload: Any) -> str | None:
    """Return why no task can be called with a decoded body of protocol 2; None if one can, or for protocol 1."""
    if isinstance(payload, Mapping) and "args" in payload:
        return None
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        return "its body is not [args, kwargs, options]"
    args, kwargs, embed = payload
    if not isinstance(args, list | tuple):
        return f"its args are of type {type(args).__name__}, not a list"
    if not isinstance(kwargs, Mapping):
        return f"its kwargs are of type {type(kwargs).__name__}, not a mapping"
    if embed is not None and not isinstance(embed, Mapping):
        return f"its options are of type {type(embed).__name__}, not a mapping"
    chain = (embed or {}).get("chain") or []
    if not isinstance(chain, list | tuple) or not all(map(_is_signature, chain)):
        return "its chain is not a list of signatures"
    return None


def _is_signature(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and "task" in value)


def misheaded(headers: Mapping[str, Any]) -> str | None:
    """Return why a pool can't run a message with these headers; None if it can, or if Celery itself refuses it."""
    limits = headers.get("timelimit")
    numbers = isinstance(limits, list | tuple) and all(
        one is None or isinstance(one, int | float) for one in limits
    )
    if limits and (not numbers or len(limits) != 2):
        return "its timelimit is not a pair of numbers"
    if not isinstance(headers.get("shadow") or "", str):
        return "its shadow is not a string"
    stamped = headers.get("stamped_headers") or []
    if not isinstance(stamped, list) or not all(isinstance(one, str) for one in stamped):
        return "its stamped_headers are not a list of strings"
    if not isinstance(headers.get("stamps") or {}, Mapping):
        return "its stamps are not a mapping"
    return None


@dataclass(frozen=True)
class Places:
    """The keys of the messages that a broker's workers hold."""

    unacked: str = "unacked"
    unacked_index: str = "unacked_index"


def park_call(
    fetched: FetchedMessage,
    reason: str,
    detail: str,
    node: str,
    *,
    keep: int,
    since: float | None = None,
    places: Places | None = None,
) -> tuple[list[str], list[str]]:
    """Return the keys and arguments of :data:`PARK` for a message.

    Args:
        fetched: The message with its list and its tag.
        reason: One of :data:`REASONS`.
        detail: The reason in words, see :func:`described`.
        node: The worker that parks it.
        keep: How many dead letters to keep.
        since: Unix time when it was first seen, None for now.
        places: The keys of ``unacked``.
    """
    where = places or Places()
    text = text_of(fetched.item)
    message = parsed(text)
    identifier, task = identity(message)
    # JSON can contain half a surrogate pair, which an operator could not type.
    name = (
        (identifier or f"no-id-{secrets.token_hex(8)}")
        .encode(errors="surrogatepass")
        .decode(errors="replace")
    )
    rest = {
        "task": task,
        "queue": queue_of(fetched.key),
        "key": fetched.key,
        "reason": reason,
        "detail": detail,
        "node": node,
        "size": len(text.encode(errors="surrogatepass")),
        # It must come last, because READ cuts it off.
        "message": text,
    }
    names = [keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX, where.unacked, where.unacked_index]
    return names, [
        fetched.tag,
        name,
        json.dumps(name)[1:-1],
        digest_of(text, message),
        "" if since is None else f"{since:.6f}",
        json.dumps(rest)[1:],
        str(keep),
    ]


@dataclass(frozen=True)
class Parked:
    """The result of :data:`PARK`: whether the message was still held, how many old letters were dropped, and its id."""

    done: bool
    gone: int
    id: str

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Parked:
        """Parse Redis's reply."""
        identifier = answer[2]
        text = identifier.decode() if isinstance(identifier, bytes) else str(identifier)
        return cls(int(answer[0]) == 1, int(answer[1]), text)
