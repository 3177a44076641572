"""Commands to all workers at once: list them, pause and resume them, and forget workers that are gone.

Part of :mod:`celery_fleet.ops.probe`, which limits the total time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_fleet.common.text import tasks_wait
from celery_fleet.delivery.keys import CANARY, direct_queue

#: Seconds to wait for answers if the number of workers is unknown.
ANSWER = 2.0

#: Minimum seconds of a round when the same command is sent again.
ROUND = 1.0

#: If no further worker answers for this many seconds, all have answered: Celery's pauses between two
#: attempts to connect are 2, 4, 6 s.
SETTLED = 6.0

#: Seconds for a request to the probe, and for a resume, unless they say otherwise.
TIMEOUT = 20.0

#: Seconds that a worker gets to show that it still runs.
ALIVE = 1.0


@dataclass(frozen=True)
class PauseRequest:
    """Fetch no tasks for ``seconds`` after the last request; send it again for at most ``wait`` seconds.

    ``nodes`` are those that must answer, if known.
    """

    seconds: float
    wait: float = 0.0
    nodes: Sequence[str] = ()


@dataclass(frozen=True)
class ResumeRequest:
    """Fetch tasks again; send it for at most ``wait`` seconds, since a worker may not be connected yet."""

    wait: float = TIMEOUT
    nodes: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """What each node answered, and the errors."""

    nodes: dict[str, dict[str, Any]]
    errors: list[str]


def census(app: Any) -> dict[str, dict[str, Any]]:
    """Return queues, processes and pid of every worker that answers, and how many tasks ended in it in the last hour.

    A draining worker consumes none of its queues any more, so it is listed without queues.
    """
    replies = dict(app.control.inspect(timeout=ANSWER).stats() or {})
    found = {}
    for node, stats in replies.items():
        fleet = stats.get("fleet", {})
        state = str(fleet.get("state", "consuming"))
        queues = [] if state == "draining" else fleet.get("queues", [])
        found[node] = {
            "queues": sorted(queue for queue in queues if queue != direct_queue(node)),
            "processes": _processes(stats.get("pool")),
            "pid": stats.get("pid"),
            "state": state,
            "ended": stats.get("fleet_last_hour", {}).get("ended", 0),
        }
    return found


def _processes(pool: Any) -> int | None:
    slots = pool.get("max-concurrency") if isinstance(pool, Mapping) else None
    return None if slots is None else int(slots)


def pause(app: Any, wanted: PauseRequest, left: Callable[[], float]) -> Answer:
    """Pause all workers, and renew the pause until nothing runs any more or the time is over."""
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


#: What may still be in progress in a paused worker, in words for a user.
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


def resume(app: Any, wanted: ResumeRequest, left: Callable[[], float]) -> Answer:
    """Have all workers fetch tasks again, as soon as each is connected again."""
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
    # The largest possible number of answers, so that the last one ends the wait.
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
    """Delete what Redis keeps of nodes that are gone: their canaries and the bindings of their queues.

    A direct queue that holds other tasks is kept and reported.
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
                    f"{node}: {tasks_wait(tasks)} in its queue {direct.name}, which is kept; start a"
                    " worker of this name, or delete them"
                )
            else:
                bindings = compat_queues.unbind(channel, direct.exchange.name, direct.name)
                bindings += compat_queues.unbind(channel, mailbox, f"{node}.{mailbox}")
            found[node] = {"canaries": canaries, "tasks": tasks, "bindings": bindings}
    return Answer(found, errors)


def _take_canaries(channel: Any, keys: Iterable[str]) -> tuple[int, int]:
    """Remove the canaries from some lists; return how many there were, and how many other tasks."""
    canaries = tasks = 0
    for key in keys:
        for message in channel.client.lrange(key, 0, -1):
            if _is_canary(message):
                # Remove them one by one, so that a task that arrives in between is not deleted.
                canaries += int(channel.client.lrem(key, 1, message))
            else:
                tasks += 1
    return canaries, tasks


def _is_canary(message: bytes) -> bool:
    try:
        return bool(json.loads(message)["headers"]["task"] == CANARY)
    except (ValueError, TypeError, KeyError):
        return False
