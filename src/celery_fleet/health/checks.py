"""List the health checks. Each checks one thing in bounded time, with only the standard library.

A check returns a :class:`~celery_fleet.health.result.Finding`. If it raises an exception, the result is `bad`.
Questions that need Celery or the application go to the release's Python, as the application's user.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from celery_fleet.health.backup import backup
from celery_fleet.health.canary import TIMEOUT, canary
from celery_fleet.health.certificates import certificates
from celery_fleet.health.fleet import beat, units, workers
from celery_fleet.health.host import clock, cpu, disk, kernel, logs, memory
from celery_fleet.health.in_release import run_module
from celery_fleet.health.redis_checks import dead_letters, queues, redis
from celery_fleet.health.result import BAD, GOOD, Finding
from celery_fleet.health.setup import FORMAT, CheckError, Setup, Worker, deployed
from celery_fleet.health.text import combined


def database(setup: Setup) -> Finding:
    """Check that the application's databases answer; those of a Django project by its own connections."""
    request = {
        "app": deployed(setup).get("module", ""),
        "release": str(setup.release),
        "environment": dict(setup.environment),
        "urls": setup.databases(),
        "timeout": 9,
    }
    answers = run_module(setup, "celery_fleet.ops.databases", request, 18)
    if not answers:
        return Finding(
            GOOD, "neither Django's settings nor a URL in the environment name a database server"
        )
    parts, words = [], []
    for name, one in answers.items():
        if not one["ok"]:
            parts.append((BAD, f"{name}: {one['error']}"))
            continue
        words.append(f"{name} answers in {one['seconds']:g} s ({one['how']})")
        parts.append(
            (
                setup.state_of("database_seconds", one["seconds"]),
                f"{name} took {one['seconds']:g} s",
            )
        )
    return combined(parts, ", ".join(words), answers)


#: Each check, with the seconds that it may take.
CHECKS: Mapping[str, tuple[Callable[[Setup], Finding], float]] = {
    "database": (database, 20.0),
    "redis": (redis, 25.0),
    "disk": (disk, 10.0),
    "memory": (memory, 5.0),
    "cpu": (cpu, 5.0),
    "kernel": (kernel, 5.0),
    "units": (units, 10.0),
    "workers": (workers, 48.0),
    "canary": (canary, TIMEOUT + 10),
    "beat": (beat, 10.0),
    "queues": (queues, 15.0),
    "dead_letters": (dead_letters, 15.0),
    "backup": (backup, 5.0),
    "certificates": (certificates, 5.0),
    "logs": (logs, 20.0),
    "clock": (clock, 10.0),
}


def read(path: Path, login: Path | None = None) -> Setup:
    """Read what to check on this host. `login` is that of `Setup`.

    Raises:
        CheckError: The file is missing or not valid.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']}, this runtime reads {FORMAT}")
        return Setup(
            app=raw["app"],
            host=raw["host"],
            user=raw["user"],
            interval=float(raw["interval"]),
            checks=tuple(name for name in raw["checks"] if name in CHECKS),
            thresholds=raw["thresholds"],
            directory=Path(raw["directory"]),
            root=Path(raw["root"]),
            runtime=Path(__file__).resolve().parents[2],
            fleet=bool(raw["fleet"]),
            units=tuple(raw["units"]),
            workers={node: Worker(**worker) for node, worker in raw["workers"].items()},
            queues=tuple(raw["queues"]),
            servers=raw["servers"],
            ca=raw["ca"],
            client=raw.get("client") or {},
            beat=raw["beat"],
            paths=tuple(raw["paths"]),
            logs=tuple(raw["logs"]),
            certificates=tuple(raw["certificates"]),
            site_certificate=str(raw.get("site_certificate", "")),
            on_change=tuple(raw["on_change"]),
            login=login,
            backup=float(raw.get("backup", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckError(f"{path} can't be read ({words}); run site.yml again") from None
