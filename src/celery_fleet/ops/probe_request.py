"""Parse and check a request to :mod:`celery_fleet.ops.probe`: its JSON, its settings and time limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_fleet.common.errors import FleetError
from celery_fleet.config.settings import FleetSettings, parse
from celery_fleet.ops import fleet_commands as command

TIMEOUT = 20.0

SHORTEST_TIMEOUT = 2.0


@dataclass(frozen=True)
class Node:
    """What is expected of a worker; None if it does not matter."""

    name: str
    queues: tuple[str, ...] = ()
    pid: int | None = None
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scheduled:
    """A schedule entry's task and queue."""

    name: str
    task: str
    queue: str


@dataclass(frozen=True)
class ProbeRequest:
    """A request to the probe; see :mod:`celery_fleet.ops.probe`."""

    settings: FleetSettings
    nodes: tuple[Node, ...]
    schedule: tuple[Scheduled, ...] = ()
    timeout: float = TIMEOUT
    resume: command.ResumeRequest | None = None
    pause: command.PauseRequest | None = None
    census: bool = False
    forget: tuple[str, ...] = ()


def parse_request(raw: object) -> ProbeRequest:
    """Check a request.

    Raises:
        FleetError: names the wrong field.
    """
    if not isinstance(raw, Mapping):
        raise FleetError("the request must be a JSON object")
    nodes = raw.get("nodes", {})
    if not isinstance(nodes, Mapping):
        raise FleetError("nodes must map node names to what is expected of them")
    schedule = raw.get("schedule") or {}
    if not isinstance(schedule, Mapping):
        raise FleetError("schedule must map entry names to task and queue")
    timeout = raw.get("timeout", TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise FleetError(f"timeout must be a number of seconds, not {timeout!r}")
    forget = raw.get("forget") or ()
    if not isinstance(forget, (list, tuple)):
        raise FleetError("forget must be a list of node names")
    for name in forget:
        _check_name(str(name))
    pause, resume = _pause(raw.get("pause")), _resume(raw.get("resume"))
    # A caller that asks to wait expects the answer too, so extend the timeout.
    waits = sum(asked.wait + command.ANSWER for asked in (pause, resume) if asked is not None)
    return ProbeRequest(
        settings=parse(raw.get("settings"), "settings"),
        nodes=tuple(_node(str(name), item) for name, item in nodes.items()),
        schedule=tuple(_scheduled(str(name), item) for name, item in schedule.items()),
        timeout=max(float(timeout), waits, SHORTEST_TIMEOUT),
        resume=resume,
        pause=pause,
        census=bool(raw.get("census")),
        forget=tuple(str(name) for name in forget),
    )


def _check_name(name: str) -> None:
    if "@" not in name:
        raise FleetError(f"node {name!r} is not a node's name: it must read worker@host")


def _pause(raw: object) -> command.PauseRequest | None:
    if not raw:
        return None
    if not isinstance(raw, Mapping) or "seconds" not in raw:
        raise FleetError("pause must be a mapping such as {seconds: 60, wait: 30}")
    seconds = _seconds("pause.seconds", raw["seconds"])
    return command.PauseRequest(seconds, _seconds("pause.wait", raw.get("wait", 0)), _names(raw))


def _resume(raw: object) -> command.ResumeRequest | None:
    if not raw:
        return None
    options = raw if isinstance(raw, Mapping) else {}
    return command.ResumeRequest(
        _seconds("resume.wait", options.get("wait", TIMEOUT)), _names(options)
    )


def _seconds(what: str, raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or raw < 0:
        raise FleetError(f"{what} must be a number of seconds, not {raw!r}")
    return float(raw)


def _names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(name) for name in raw.get("nodes") or ())


def _node(name: str, raw: object) -> Node:
    _check_name(name)
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise FleetError(f"node {name}: must be a mapping such as {{queues: […]}}")
    pid = raw.get("pid")
    return Node(
        name=name,
        queues=tuple(str(queue) for queue in raw.get("queues") or ()),
        pid=None if pid is None else int(pid),
        tasks=tuple(str(task) for task in raw.get("tasks") or ()),
    )


def _scheduled(name: str, raw: object) -> Scheduled:
    if not isinstance(raw, Mapping) or not {"task", "queue"} <= raw.keys():
        raise FleetError(f"schedule {name}: must be a mapping with task and queue")
    return Scheduled(name, str(raw["task"]), str(raw["queue"]))
