"""What the operator asks of all workers at once: who is there, pause, go on; and forgetting who has gone.

Part of :mod:`celery_fleet.ops.probe`, which bounds all of it in time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The name as in :mod:`celery_fleet.canary`, which needs Celery already to be imported.
CANARY = "celery_fleet.canary"

#: Seconds that a worker gets to answer where nobody knows how many there are.
ANSWER = 2.0

#: Seconds that a round takes at least where the same is asked again.
ROUND = 1.0

#: Seconds in which no further worker has answered, after which all have: Celery's pauses between
#: two attempts to connect are 2, 4, 6 s.
SETTLED = 6.0

#: Seconds that a worker gets to say that it has not gone.
ALIVE = 1.0


@dataclass(frozen=True)
class Pause:
    """Take no tasks for ``seconds`` from the last time it is asked; asked for ``wait`` s at most.

    ``nodes`` are those that have to answer, if known.
    """

    seconds: float
    wait: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resume:
    """Take tasks again; asked for ``wait`` seconds at most, as a worker may not be connected yet."""

    wait: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What each node said, and what is wrong with it."""

    nodes: dict[str, dict[str, Any]]
    errors: list[str]


def census(app: Any) -> dict[str, dict[str, Any]]:
    """Queues, processes and pid of every worker that answers.

    One that drains consumes none of its queues any more, so it is listed without.
    """
    replies = dict(app.control.inspect(timeout=ANSWER).stats() or {})
    # A worker of an older runtime does not name its queues there.
    old = [node for node, stats in replies.items() if "queues" not in stats.get("fleet", {})]
    asked: dict[str, Any] = {}
    if old:
        inspect = app.control.inspect(destination=old, timeout=ANSWER, limit=len(old))
        answers = inspect.active_queues() or {}
        asked = {node: [queue["name"] for queue in queues] for node, queues in answers.items()}
    found = {}
    for node, stats in replies.items():
        fleet = stats.get("fleet", {})
        state = str(fleet.get("state", "consuming"))
        queues = [] if state == "draining" else fleet.get("queues", asked.get(node, []))
        found[node] = {
            "queues": sorted(queue for queue in queues if queue != f"{node}.dq2"),
            "processes": _processes(stats.get("pool")),
            "pid": stats.get("pid"),
            "state": state,
        }
    return found


def _processes(pool: Any) -> int | None:
    slots = pool.get("max-concurrency") if isinstance(pool, Mapping) else None
    return None if slots is None else int(slots)


def pause(app: Any, wanted: Pause, left: Callable[[], float]) -> Answer:
    """Have all workers pause, and renew that until nothing runs any more or the time is over."""
    said: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + min(wanted.wait, left() - ANSWER)
    while True:
        began = time.monotonic()
        said |= _broadcast(app, "fleet_pause", {"seconds": wanted.seconds}, wanted.nodes, said)
        waiting = [node for node in wanted.nodes if node not in said]
        if not waiting and not any(_busy(reply) for reply in said.values()):
            break
        if time.monotonic() >= end:
            break
        time.sleep(max(0.0, began + ROUND - time.monotonic()))
    return Answer(said, [*_silent(wanted.nodes, said), *_not_quiet(said)])


#: What keeps a paused worker from being quiet, as a person reads it.
_BUSY = {
    "running": "{} tasks still run",
    "unacked": "{} messages are not acknowledged",
    "held": "{} messages could not be handed back yet",
    "polling": "a last message may still come",
}


def _busy(reply: Mapping[str, Any]) -> list[str]:
    return [text.format(reply[name]) for name, text in _BUSY.items() if reply.get(name)]


def _not_quiet(said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    errors = []
    for node, reply in sorted(said.items()):
        if reply.get("state") == "unsupported":
            errors.append(f"{node}: can't pause, {reply.get('why')}")
        elif "error" in reply:
            errors.append(f"{node}: {reply['error']}")
        elif busy := _busy(reply):
            errors.append(f"{node}: {', '.join(busy)}")
    return errors


def resume(app: Any, wanted: Resume, left: Callable[[], float]) -> Answer:
    """Have all workers take tasks again, once each of them has its connection back."""
    said: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + min(wanted.wait, left() - ANSWER)
    news = time.monotonic()
    while True:
        began = time.monotonic()
        replies = _broadcast(app, "fleet_resume", {}, wanted.nodes, said)
        if not replies.keys() <= said.keys():
            news = time.monotonic()
        said |= replies
        if wanted.nodes:
            complete = all(node in said for node in wanted.nodes)
        else:
            complete = bool(said) and time.monotonic() - news >= SETTLED
        if complete or time.monotonic() >= end:
            break
        time.sleep(max(0.0, began + ROUND - time.monotonic()))
    return Answer(said, _silent(wanted.nodes, said))


def _silent(nodes: Iterable[str], said: Mapping[str, Any]) -> list[str]:
    return [f"{node}: no answer; is it running?" for node in nodes if node not in said]


def _broadcast(
    app: Any,
    command: str,
    arguments: Mapping[str, Any],
    nodes: Iterable[str],
    said: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    # As many answers as there can be, so that the last one ends the wait.
    expected = len({*nodes, *said}) or None
    replies = app.control.broadcast(
        command,
        arguments=dict(arguments),
        reply=True,
        timeout=ANSWER if expected is None else ROUND,
        limit=expected,
    )
    return {node: dict(reply or {}) for answer in replies or () for node, reply in answer.items()}


def forget(app: Any, nodes: Iterable[str]) -> Answer:
    """Delete what Redis keeps of nodes that have gone: their canaries and their queues' bindings.

    A direct queue with other tasks is left with them, and named.
    """
    from celery.utils.nodenames import worker_direct

    from celery_fleet.compat import queues as compat_queues

    gone = list(nodes)
    inspect = app.control.inspect(destination=gone, timeout=ALIVE, limit=len(gone))
    alive = set(inspect.ping() or {})
    found: dict[str, dict[str, Any]] = {}
    errors = [f"{node}: is running, so it is not forgotten" for node in gone if node in alive]
    mailbox = app.control.mailbox.exchange.name
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for node in gone:
            if node in alive:
                continue
            direct = worker_direct(node)
            canaries, tasks = _take_canaries(
                channel, compat_queues.priority_keys(channel, direct.name)
            )
            bindings = 0
            if tasks:
                errors.append(
                    f"{node}: {tasks} tasks wait in its queue {direct.name}, which is left; start a"
                    " worker of this name, or delete them"
                )
            else:
                bindings = compat_queues.unbind(channel, direct.exchange.name, direct.name)
                bindings += compat_queues.unbind(channel, mailbox, f"{node}.{mailbox}")
            found[node] = {"canaries": canaries, "tasks": tasks, "bindings": bindings}
    return Answer(found, errors)


def _take_canaries(channel: Any, keys: Iterable[str]) -> tuple[int, int]:
    """Remove the canaries from some lists; how many there were, and how many other tasks."""
    canaries = tasks = 0
    for key in keys:
        for message in channel.client.lrange(key, 0, -1):
            if _is_canary(message):
                # Each by itself, so that a task that comes in between is not deleted with them.
                canaries += int(channel.client.lrem(key, 1, message))
            else:
                tasks += 1
    return canaries, tasks


def _is_canary(message: bytes) -> bool:
    try:
        return bool(json.loads(message)["headers"]["task"] == CANARY)
    except (ValueError, TypeError, KeyError):
        return False
