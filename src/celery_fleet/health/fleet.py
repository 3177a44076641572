"""Check units, beat, and the workers of the whole fleet; changes nothing.

Workers are asked in the release's Python, as the application's user.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from celery_fleet.common import client_certificate
from celery_fleet.health import units as health_units
from celery_fleet.health.in_release import run_module
from celery_fleet.health.result import BAD, WARNING, Finding
from celery_fleet.health.setup import CheckError, Setup, deployed
from celery_fleet.health.text import combined


def units(setup: Setup, show: health_units.Ask = health_units.show) -> Finding:
    """Check that this host's units are up: Redis, web, Flower, nginx. Workers and beat have their own checks."""
    there = deployed(setup).get("units", setup.units)
    names = [name for name in setup.units if name in there]
    found = show(names)
    patience = setup.threshold("starting_seconds")
    parts = [health_units.state_of(found.get(name), name, patience) for name in names]
    return combined(parts, f"{len(names)} up", {name: found[name].active for name in found})


def beat(setup: Setup, show: health_units.Ask = health_units.show) -> Finding:
    """Check that beat is up and looked at its schedule a short time ago."""
    about = setup.beat or {}
    name = str(about["unit"])
    unit = show([name]).get(name)
    state, text = health_units.state_of(unit, name, setup.threshold("starting_seconds"))
    if unit is None or unit.active != "active":
        return Finding(state, text)
    up = max(0.0, time.monotonic() - unit.up)
    touched = last_tick(Path(about["directory"]))
    seconds = None if touched is None else max(0.0, time.time() - touched)
    pause = float(about["interval"])
    overdue = (up if seconds is None else seconds) - pause
    said = "none since its start" if seconds is None else f"{seconds:.0f} s ago"
    text = f"last tick {said}"
    if seconds is None:
        text += f" {up:.0f} s ago"
    return Finding(
        setup.state_of("beat_tick_seconds", overdue),
        text,
        {"tick_seconds": None if seconds is None else round(seconds, 1)},
    )


def last_tick(directory: Path) -> float | None:
    """Return when beat last looked at its schedule, in Unix time; None if its runtime directory does not say.

    Raises:
        OSError, CheckError: It can't be read, or something else is in its place.
    """
    try:
        touched = os.lstat(directory / "tick")
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(touched.st_mode):
        raise CheckError(f"{directory}/tick is not a file")
    return touched.st_mtime


def workers(
    setup: Setup,
    show: health_units.Ask = health_units.show,
    ask: Callable[[Setup, Sequence[str]], Iterable[str]] | None = None,
    pause: float = 4.0,
) -> Finding:
    """Check that this host's workers are up and answer; with `fleet`, also that those of all other hosts answer."""
    there = deployed(setup).get("workers", setup.workers)
    wanted = {node: worker for node, worker in setup.workers.items() if node in there}
    own = {node: worker for node, worker in wanted.items() if worker.host == setup.host}
    found = show([worker.unit for worker in own.values()])
    parts, awaited = [], []
    for node, worker in wanted.items():
        if node in own:
            unit = found.get(worker.unit)
            parts.append(
                health_units.state_of(unit, worker.unit, setup.threshold("starting_seconds"))
            )
            if unit is not None and unit.active == "active":
                awaited.append(node)
        elif setup.fleet:
            awaited.append(node)
    online, trouble = _online(setup, awaited, ask or _ping, pause)
    if trouble:
        parts.append((WARNING, f"the workers can't be asked: {trouble}"))
    for node in (node for node in awaited if node not in online and not trouble):
        # A solo pool answers only between two tasks.
        busy = wanted[node].pool == "solo"
        text = f"{node} does not answer" + ("; its solo pool may be running a task" if busy else "")
        parts.append((WARNING if busy else BAD, text))
    asked = len(awaited)
    value = {
        "online": sorted(online),
        "missing": sorted(set(awaited) - online) if not trouble else None,
    }
    return combined(parts, f"{len(online)} of {asked} online", value)


def _online(
    setup: Setup,
    awaited: Sequence[str],
    ask: Callable[[Setup, Sequence[str]], Iterable[str]],
    pause: float,
) -> tuple[set[str], str]:
    """Return which workers answer, and why none could be asked. A worker that is restarting gets some time."""
    online: set[str] = set()
    for number in range(3):
        missing = [node for node in awaited if node not in online]
        if not missing:
            break
        if number:
            time.sleep(pause)
        try:
            online.update(set(ask(setup, missing)).intersection(awaited))
        except CheckError as error:
            return online, str(error)
    return online, ""


def _ping(setup: Setup, nodes: Sequence[str]) -> list[str]:
    request = {
        "question": "inspect",
        "method": "ping",
        "nodes": list(nodes),
        "wait": 3,
        "settings": client_certificate.carried(setup.credentials()),
        "timeout": 8,
    }
    answer = run_module(setup, "celery_fleet.ops.questions", request, 12)
    if not answer.get("ok"):
        raise CheckError(str(answer.get("error")))
    return list(answer["answer"])
