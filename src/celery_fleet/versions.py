"""Which Python and Celery the runtime supports, checked before anything of Celery is touched."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from celery_fleet.errors import FleetError

PYTHON = (3, 11)
CELERY = ("5.7",)
PACKAGES = ("celery", "kombu", "redis")


def installed() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None where one is missing."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def minor(text: str) -> str:
    """``5.7`` of ``5.7.0``."""
    return ".".join(text.split(".")[:2])


def problems(found: dict[str, str | None]) -> list[str]:
    """What of these versions is not supported, one line each with the remedy."""
    lines = []
    python = found["python"] or "unknown"
    if tuple(int(part) for part in python.split(".")[:2] if part.isdigit()) < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        lines.append(f"Python {python} is too old: use {wanted} or later (celery_release_python)")
    celery = found["celery"]
    supported = ", ".join(CELERY)
    if celery is None:
        lines.append(f"celery is not installed: add celery[redis]=={CELERY[0]}.* to requirements")
    elif minor(celery) not in CELERY:
        lines.append(
            f"Celery {celery} is not supported, only {supported}: require celery=={CELERY[0]}.*"
        )
    if found["redis"] is None:
        lines.append(f"redis is not installed: add celery[redis]=={CELERY[0]}.* to requirements")
    return lines


def require() -> None:
    """Check the versions that this process runs.

    Raises:
        FleetError: naming every version that is not supported.
    """
    lines = problems(installed())
    if lines:
        raise FleetError("; ".join(lines))
