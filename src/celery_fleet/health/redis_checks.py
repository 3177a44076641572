"""Check Redis servers, queues and dead letters, only by reading; standard library only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from celery_fleet.common import client_certificate, pauses, redis_client
from celery_fleet.common.pauses import Pause
from celery_fleet.common.redis_client import Client, ClientError, Server
from celery_fleet.common.text import count, tasks_wait
from celery_fleet.delivery.keys import DEAD_LETTERS_INDEX, PAUSES
from celery_fleet.delivery.messages import SEPARATOR, STEPS
from celery_fleet.health.result import BAD, WARNING, Finding
from celery_fleet.health.setup import Setup, state_of
from celery_fleet.health.text import combined, reason


def server(setup: Setup, kind: str) -> Server:
    """Return the server of a kind of instance, with the setup's login if this host has it."""
    if setup.operator is not None:
        pins = setup.operator["celery"]
        url, tls, transport = (
            ("broker_url", "broker_use_ssl", "broker_transport_options")
            if kind == "broker"
            else ("result_backend", "redis_backend_use_ssl", "result_backend_transport_options")
        )
        options = client_certificate.resolved(pins.get(tls) or {}, os.environ)
        found = redis_client.server_of(str(pins[url]), options, pins.get(transport))
        if kind != "cache":
            return found
        # A user has the same login on each instance, but no setting of Celery names the cache, which has no replicas.
        about = setup.servers[kind]
        return replace(found, host=str(about["host"]), port=int(about["port"]), sentinels=())
    about = setup.servers[kind]
    return Server(
        str(about["host"]),
        int(about["port"]),
        ca=setup.ca or None,
        certificate=setup.client.get("certificate"),
        key=setup.client.get("key"),
    )


def trying(ask: Callable[[], Any], tries: int = 3, pause: float = 2.0) -> Any:
    """Return the answer of a server that may be restarting.

    Raises:
        OSError, ClientError: The error of the last try.
    """
    for number in range(1, tries + 1):
        try:
            return ask()
        # A timeout is not tried again: a server that hangs would hang again.
        except (ConnectionError, ClientError) as error:
            restarting = isinstance(error, ConnectionError) or str(error).startswith("LOADING")
            if number == tries or not restarting:
                raise
            time.sleep(pause)
    raise AssertionError


def redis(setup: Setup) -> Finding:
    """Check that broker and result store accept the login, answer and have their replicas, and their memory."""
    parts, value, words = [], {}, []
    for kind in ("broker", "results", *({"cache"} & {*setup.servers})):
        where = server(setup, kind)
        try:
            about, seconds = trying(partial(described, where))
        except (OSError, ClientError) as error:
            parts.append((BAD, f"{kind} {where.address}: {reason(error)}"))
            continue
        limit, used = int(about.get("maxmemory", 0)), int(about.get("used_memory", 0))
        share = 100 * used / limit if limit else None
        value[kind] = {
            "seconds": round(seconds, 3),
            "memory_percent": None if share is None else round(share, 1),
            "used_bytes": used if about else None,
        }
        full = "" if share is None else f", {share:.0f} % of its memory"
        words.append(f"{kind} answers{full}")
        if where.sentinels and about:
            found, wanted = replicas(about), len(where.sentinels) - 1
            value[kind]["replicas"] = found
            if found < wanted:
                text = (
                    f"{kind} has {found} of {wanted} replicas; see redis@{setup.app}-{kind} and {setup.app}-sentinel"
                    " on the other hosts of Redis"
                )
                parts.append((WARNING if found else BAD, text))
            parts += sentinels(where)
        parts.append((setup.state_of("redis_seconds", seconds), f"{kind} took {seconds:.1f} s"))
        if share is not None and about.get("maxmemory_policy", "noeviction") == "noeviction":
            # A server that evicts keys is always full.
            parts.append(
                (
                    setup.state_of("redis_memory_percent", share),
                    f"{kind} uses {share:.0f} % of its memory",
                )
            )
    return combined(parts, ", ".join(words), value)


def described(where: Server) -> tuple[dict[str, str], float]:
    """Return what a server says about its memory and replicas, empty without a login, and the seconds that it took."""
    began = time.monotonic()
    about: dict[str, str] = {}
    with Client(where) as client:
        if where.password is None:
            with contextlib.suppress(ClientError):
                # Without a login the answer is an error, but it is an answer.
                client.ask("PING")
        else:
            client.ask("PING")
            # Users of services that others run may not ask for this.
            with contextlib.suppress(ClientError):
                about = redis_client.information(client.ask("INFO", "memory"))
            if about and where.sentinels:
                about |= redis_client.information(client.ask("INFO", "replication"))
    return about, time.monotonic() - began


def sentinels(where: Server) -> list[tuple[str, str]]:
    """Return what is wrong with the Sentinels of an instance."""
    number = len(where.sentinels)
    try:
        found, enough = redis_client.usable_sentinels(where)
    except (OSError, ClientError):
        # Either the primary was found by one that has gone since, or the rights are those of an older run.
        return []
    words = f"{found} of {number} Sentinels of {where.host} answer"
    if not enough:
        return [(BAD, f"{words}, too few to replace its primary")]
    return [(WARNING, words)] if found < number else []


def replicas(about: Mapping[str, str]) -> int:
    """Return how many replicas have what a primary has, from its answer to INFO."""
    return sum("state=online" in value.split(",") for value in about.values())


def lists(setup: Setup) -> dict[str, list[str]]:
    """Return the keys of each queue's lists, one for each priority that has a list, in the order of the priorities.

    Raises:
        CheckError: This host has no login.
    """
    options = setup.credentials()["celery"].get("broker_transport_options") or {}
    steps = options.get("priority_steps") or STEPS
    separator = options.get("sep") or SEPARATOR
    return {
        queue: [f"{queue}{separator}{step}" if step else queue for step in steps]
        for queue in setup.queues
    }


def queues(setup: Setup) -> Finding:
    """Check how many tasks wait in each queue; a queue that operators have paused may grow."""
    wanted = lists(setup)

    def ask() -> tuple[dict[str, int], list[Pause]]:
        with Client(server(setup, "broker")) as client:
            return {
                queue: sum(int(client.ask("LLEN", key)) for key in keys)
                for queue, keys in wanted.items()
            }, _pauses(client)

    lengths, paused = trying(ask)
    own = setup.threshold("queues")
    parts = []
    for queue, length in lengths.items():
        bounds = {**setup.threshold("queue_length"), **_bounds(own.get(queue))}
        if any(one.target in (pauses.ALL, pauses.target(pauses.QUEUE, queue)) for one in paused):
            continue
        parts.append((state_of(length, bounds), f"{tasks_wait(length)} in {queue}"))
    total = sum(lengths.values())
    words = "".join(dict.fromkeys(f"; paused: {one.words}" for one in paused))
    return combined(parts, f"{tasks_wait(total)} in {count(len(lengths), 'queue')}{words}", lengths)


def _pauses(client: Client) -> list[Pause]:
    try:
        found = client.ask("HGETALL", PAUSES)
    except ClientError:  # older rights, or a server that others run
        return []
    return pauses.parse(dict(zip(found[::2], found[1::2], strict=True)))


def dead_letters(setup: Setup) -> Finding:
    """Check how many dead letters wait for a decision: messages that could not be run, or that failed for good."""
    setup.credentials()

    def ask() -> int:
        with Client(server(setup, "broker")) as client:
            return int(client.ask("ZCARD", DEAD_LETTERS_INDEX))

    number: int = trying(ask)
    text = count(number, "dead letter")
    if number:
        text += ": celery-fleet dead-letters list"
    return Finding(setup.state_of("dead_letters", number), text, {"number": number})


def _bounds(given: object) -> Mapping[str, float | None]:
    return given if isinstance(given, Mapping) else {}
