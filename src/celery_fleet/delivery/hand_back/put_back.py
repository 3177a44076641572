"""Put back the messages of a dead process: each to the head of its list, in the order in which they were fetched.

Standard library only. One script moves each message, and does nothing if the message is no longer held under its tag.
If the work is interrupted, the other messages stay in ``unacked``; a sweep returns them when their lease has expired.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from celery_fleet.common import redis_client as health_redis
from celery_fleet.common import text as words
from celery_fleet.common.redis_client import ClientError
from celery_fleet.delivery import keys, messages
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letters import PARK, POISON
from celery_fleet.delivery.hand_back.worker_record import WorkerRecord
from celery_fleet.delivery.messages import FetchedMessage, number_of
from celery_fleet.delivery.scripts import HEAD, PUT_BACK, Script

#: Number of members of the index in one request, and number of messages that are in memory at once.
SCAN, CHUNK = 1000, 20

#: Number of times to read the index: the last commands of a dead process may reach Redis after the first time.
LOOKS = 3

_GLOB = re.compile(r"([\\*?\[\]])")


class MessageClient(health_redis.Client):
    """A connection that accepts replies of any size, and returns their bytes unchanged."""

    longest: ClassVar[int] = 1 << 29
    undecodable: ClassVar[str] = "surrogateescape"


def context_of(tls: Mapping[str, Any]) -> ssl.SSLContext:
    """Return a TLS context with kombu's options from ``broker_use_ssl``.

    Raises:
        OSError: A certificate can't be read.
    """
    context = ssl.create_default_context(cafile=tls.get("ssl_ca_certs") or None)
    needed = str(tls.get("ssl_cert_reqs") or "required").lower().removeprefix("cert_")
    context.check_hostname = needed == "required" and bool(tls.get("ssl_check_hostname", True))
    if needed != "required":
        context.verify_mode = ssl.CERT_OPTIONAL if needed == "optional" else ssl.CERT_NONE
    if tls.get("ssl_certfile"):
        context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile") or None)
    return context


@dataclass
class Outcome:
    """The number of messages by outcome. Each message updates it, so it is correct even if the work is interrupted."""

    #: Tasks that ended before the process died, and are acknowledged now.
    acknowledged: int = 0
    returned: int = 0
    #: Messages in ``returned`` that the process had begun to run.
    begun: int = 0
    #: Messages that became dead letters, because too many processes died while they ran them.
    parked: int = 0
    #: Messages that stay in ``unacked``, and the reason for the first of them.
    left: int = 0
    why: str = ""
    #: Why the last attempt did not finish.
    trouble: str = ""


@dataclass(frozen=True)
class UnackedMessage:
    """A message in ``unacked``."""

    tag: str
    raw: dict[str, Any]
    #: The list that it goes back to.
    key: str

    @classmethod
    def parse(cls, tag: str, value: str, record: WorkerRecord) -> UnackedMessage:
        """Read ``[message, "", queue]``.

        Raises:
            ValueError: The entry was not written by the atomic fetch.
        """
        try:
            raw, exchange, queue = json.loads(value)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"it can't be read ({type(error).__name__})") from None
        if not isinstance(raw, dict) or exchange != "" or not isinstance(queue, str):
            raise ValueError("the atomic fetch did not write it")
        return cls(tag, raw, messages.list_for(queue, raw, record.separator, record.steps))


def _redelivered(raw: Mapping[str, Any], share: float | None) -> dict[str, Any]:
    """Return a copy of a message to put back.

    ``share`` is its share of the worker's death; None if its task had not begun.
    """
    message = messages.redelivered(raw)
    if share is not None:
        headers = message.get("headers")
        message["headers"] = {
            **(headers if isinstance(headers, dict) else {}),
            keys.DEATHS: round(dead_letters.header(raw, keys.DEATHS) + share, 3),
            keys.CRASHES: int(dead_letters.header(raw, keys.CRASHES)) + 1,
        }
    return message


class Return:
    """Puts back all messages of a process. Each attempt continues where the previous one stopped.

    Args:
        record: The record that the process left.
        begun: Numbers of the deliveries that the process had begun to run; they share its death.
        pending: Tags of the deliveries that had ended.
        outcome: Counts the messages by outcome.
    """

    def __init__(
        self, record: WorkerRecord, begun: Collection[int], pending: Sequence[str], outcome: Outcome
    ) -> None:
        self._record = record
        self._begun = begun
        self._pending = list(pending)
        self._outcome = outcome
        self._left: set[str] = set()
        self._shares: dict[str, float] | None = None

    def attempt(self, client: MessageClient) -> None:
        """Put back the messages that are still held.

        Raises:
            OSError, ClientError: Redis does not answer, or its answer is an error.
        """
        if self._pending:
            self._acknowledge(client)
        for look in range(LOOKS):
            tags = self._held(client)
            if not tags:
                return
            if not look:
                for script in (PUT_BACK, PARK):
                    client.ask("SCRIPT", "LOAD", script.text)
            if self._shares is None:
                self._shares = self._share_out(client, tags)
            # The message that is pushed last is popped first, so the newest goes first.
            for start in range(0, len(tags), CHUNK):
                self._move(client, tags[start : start + CHUNK])

    def _acknowledge(self, client: MessageClient) -> None:
        unacked, index = self._record.unacked, self._record.index
        # Delete the message before its place in the index: a place without a message is harmless, but not the reverse.
        # Use plain commands, because Redis accepts these at its memory limit.
        gone = _sound(client.ask_all(("HDEL", unacked, tag) for tag in self._pending))
        _sound(client.ask_all(("ZREM", index, tag) for tag in self._pending))
        self._pending.clear()
        self._outcome.acknowledged += sum(gone)

    def _held(self, client: MessageClient) -> list[str]:
        """Return the tags in the index, the newest first, sorted by number because a lease changes the times."""
        owner = self._record.owner
        pattern = _GLOB.sub(r"\\\1", owner.prefix) + "*"
        found: set[str] = set()
        cursor = "0"
        while True:
            # Read in steps. The index contains the messages of all workers, and a long command would block all clients.
            cursor, members = client.ask(
                "ZSCAN", self._record.index, cursor, "MATCH", pattern, "COUNT", str(SCAN)
            )
            found.update(tag for tag in members[::2] if owner.holds(tag))
            if cursor == "0":
                return sorted(found - self._left, key=number_of, reverse=True)

    def _share_out(self, client: MessageClient, tags: Sequence[str]) -> dict[str, float]:
        """Return each running task's share of the process's death.

        It is not known which task killed the process. Tasks that were running at several deaths are suspects, and a
        worker runs only one suspect at a time.
        """
        running = [tag for tag in tags if number_of(tag) in self._begun]
        crashes: dict[str, float] = {}
        for start in range(0, len(running), CHUNK):
            chunk = running[start : start + CHUNK]
            values = client.ask_all(("HGET", self._record.unacked, tag) for tag in chunk)
            _require_final(values)
            for tag, value in zip(chunk, values, strict=True):
                with suppress(ValueError):
                    held = UnackedMessage.parse(tag, value, self._record)
                    crashes[tag] = dead_letters.header(held.raw, keys.CRASHES)
        suspects = [tag for tag, number in crashes.items() if number >= keys.SUSPECT]
        blamed = suspects or list(crashes)
        return {tag: 1 / len(blamed) if tag in blamed else 0.0 for tag in crashes}

    def _move(self, client: MessageClient, tags: Sequence[str]) -> None:
        values = client.ask_all(("HGET", self._record.unacked, tag) for tag in tags)
        _require_final(values)
        commands: list[tuple[str, ...]] = []
        moved: list[tuple[str, str]] = []
        for tag, value in zip(tags, values, strict=True):
            if value is None:
                client.ask("ZREM", self._record.index, tag)
                continue
            if isinstance(value, ClientError):
                self._leave(tag, str(value))
                continue
            try:
                held = UnackedMessage.parse(tag, value, self._record)
            except ValueError as error:
                self._leave(tag, str(error))
                continue
            kind, command = self._command(held)
            moved.append((tag, kind))
            commands.append(command)
        answers = client.ask_all(commands)
        for (tag, kind), answer in zip(moved, answers, strict=True):
            if isinstance(answer, ClientError):
                if not answer.temporary:
                    self._leave(tag, str(answer))
            else:
                # PARK returns a list, in which the first item is like the result of PUT_BACK.
                done = int(answer[0] if isinstance(answer, list) else answer)
                self._note(kind, done)
        _require_final(answers)

    def _command(self, held: UnackedMessage) -> tuple[str, tuple[str, ...]]:
        """Return the outcome of a message, and the command for it."""
        share = (self._shares or {}).get(held.tag)
        raw = _redelivered(held.raw, share)
        message = json.dumps(raw)
        deaths = dead_letters.header(raw, keys.DEATHS)
        # Shares of a death, such as thirds, are rounded.
        if share and self._record.deaths is not None and deaths > self._record.deaths - 0.01:
            crashes = int(dead_letters.header(raw, keys.CRASHES))
            names, arguments = dead_letters.park_call(
                FetchedMessage(message, held.tag, held.key),
                POISON,
                f"its worker died {words.count(crashes, 'time')} while it ran",
                self._record.node,
                keep=self._record.keep,
                places=dead_letters.Places(self._record.unacked, self._record.index),
            )
            return "parked", _evaluation(PARK, names, arguments)
        kind = "returned" if share is None else "begun"
        places = [self._record.unacked, self._record.index, held.key]
        return kind, _evaluation(PUT_BACK, places, [held.tag, message, HEAD, ""])

    def _note(self, kind: str, done: int) -> None:
        outcome = self._outcome
        if kind == "parked":
            outcome.parked += done
        else:
            outcome.returned += done
            outcome.begun += done if kind == "begun" else 0

    def _leave(self, tag: str, why: str) -> None:
        self._left.add(tag)
        self._outcome.left += 1
        self._outcome.why = self._outcome.why or why


def _evaluation(script: Script, names: Sequence[str], arguments: Sequence[str]) -> tuple[str, ...]:
    return ("EVALSHA", script.sha, str(len(names)), *names, *arguments)


def _require_final(answers: Iterable[Any]) -> None:
    """Check that none of the answers would be another one soon.

    Raises:
        ClientError: One of the answers is an error that Redis soon stops giving.
    """
    for answer in answers:
        if isinstance(answer, ClientError) and answer.temporary:
            raise answer


def _sound(answers: Iterable[Any]) -> list[int]:
    """Return the answers as numbers.

    Raises:
        ClientError: One of the answers is an error.
    """
    found = list(answers)
    for answer in found:
        if isinstance(answer, ClientError):
            raise answer
    return [int(answer) for answer in found]
