"""Check that the installed Python and Celery are supported, before anything of Celery is imported."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from celery_fleet.common.errors import FleetError

PYTHON = (3, 11)
#: Supported minors of Celery, newest first; remedies name the first one. Each has a module in
#: `celery_fleet.compat.minors`.
CELERY = ("5.7", "5.6", "5.5", "5.4")
#: Supported minors of kombu; each has a module there for its Redis transport.
KOMBU = ("5.7", "5.6", "5.5", "5.4")
#: The last Python version that the package of a Celery minor lists.
_LAST_PYTHON = {"5.4": (3, 12), "5.5": (3, 13), "5.6": (3, 13)}
#: The oldest redis-py that a kombu minor accepts (``Channel._get_client`` of kombu 5.7.0).
_FIRST_REDIS = {"5.7": (6, 1)}
PACKAGES = ("celery", "kombu", "redis")


def installed() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter; None for a missing one."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def minor(text: str) -> str:
    """Return ``5.7`` for ``5.7.0``."""
    return ".".join(text.split(".")[:2])


def problems(found: dict[str, str | None]) -> list[str]:
    """Return one line for each unsupported version, with the remedy."""
    lines = []
    python = found["python"] or "unknown"
    if _parts(python) < PYTHON:
        wanted = _text(PYTHON)
        lines.append(f"Python {python} is too old: use {wanted} or later (celery_release_python)")
    celery = found["celery"]
    if celery is None:
        lines.append(f"celery is not installed: add celery[redis]=={CELERY[0]}.* to requirements")
    elif minor(celery) not in CELERY:
        lines.append(
            f"Celery {celery} is not supported, only {', '.join(CELERY)}: require celery=={CELERY[0]}.*"
        )
    elif _parts(python) > _LAST_PYTHON.get(minor(celery), _parts(python)):
        last = _text(_LAST_PYTHON[minor(celery)])
        lines.append(
            f"Celery {celery} supports Python up to {last}, and this is {python}: require a later Celery"
            f" (celery=={CELERY[0]}.*), or use Python {last} (celery_release_python)"
        )
    redis, kombu = found["redis"], found.get("kombu")
    if redis is None:
        lines.append(f"redis is not installed: add celery[redis]=={CELERY[0]}.* to requirements")
    elif kombu is not None and _parts(redis) < _FIRST_REDIS.get(minor(kombu), (0,)):
        # pip itself resolves celery[redis]==5.4.* to such a combination.
        least = _text(_FIRST_REDIS[minor(kombu)])
        lines.append(
            f"kombu {kombu} refuses redis {redis}, it needs {least} or later: add kombu[redis]<{minor(kombu)}"
            f" to requirements, or redis>={least}"
        )
    return lines


def _parts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _text(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def require() -> None:
    """Check the versions with which this process runs.

    Raises:
        FleetError: names every unsupported version.
    """
    lines = problems(installed())
    if lines:
        raise FleetError("; ".join(lines))
