"""A request to :mod:`celery_fleet.ops.probe`, with its settings and time limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_fleet.common.errors import FleetError
from celery_fleet.common.redact import secrets_in
from celery_fleet.config.settings import FleetSettings, parse
from celery_fleet.ops import fleet_commands as command

SHORTEST_TIMEOUT = 2.0


@dataclass(frozen=True)
class Node:
    """What is expected of a worker; None if it does not matter."""

    name: str
    queues: Sequence[str] = ()
    pid: int | None = None
    tasks: Sequence[str] = ()


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
    secrets: set[str]
    nodes: tuple[Node, ...]
    schedule: tuple[Scheduled, ...] = ()
    timeout: float = command.TIMEOUT
    resume: command.ResumeRequest | None = None
    pause: command.PauseRequest | None = None
    census: bool = False
    forget: Sequence[str] = ()


def parse_request(raw: Mapping[str, Any]) -> ProbeRequest:
    """Create a request from its JSON.

    Raises:
        FleetError: The settings or the name of a node is wrong.
        AttributeError, KeyError, TypeError, ValueError: The request is damaged.
    """
    nodes, forget = raw.get("nodes", {}), raw.get("forget", ())
    for name in (*nodes, *forget):
        _check_name(name)
    pause = command.PauseRequest(**raw["pause"]) if "pause" in raw else None
    resume = None
    if "resume" in raw:
        resume = command.ResumeRequest(**({} if raw["resume"] is True else raw["resume"]))
    # A caller that asks to wait expects the answer too, so extend the timeout.
    waits = sum(asked.wait + command.ANSWER for asked in (pause, resume) if asked is not None)
    return ProbeRequest(
        settings=parse(raw["settings"], "settings"),
        secrets=secrets_in(raw),
        nodes=tuple(Node(name, **item) for name, item in nodes.items()),
        schedule=tuple(Scheduled(name, **item) for name, item in raw.get("schedule", {}).items()),
        timeout=max(float(raw.get("timeout", command.TIMEOUT)), waits, SHORTEST_TIMEOUT),
        resume=resume,
        pause=pause,
        census=raw.get("census", False),
        forget=forget,
    )


def _check_name(name: str) -> None:
    if "@" not in name:
        raise FleetError(f"node {name!r} is not a node's name: it must read worker@host")
