"""End a process that can't continue, with one line that names the cause and the remedy."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import NoReturn

from celery_fleet.common.redact import redact

#: Exit status of a configuration error, from ``sysexits.h``.
EX_CONFIG = 78

#: The components that run in a process of the fleet; a producer runs in a process of the application.
OWN_COMPONENTS = frozenset({"worker", "beat", "flower"})

COMPONENT_VARIABLE = "CELERY_FLEET_COMPONENT"

#: What the operating system says if this process or its host has too little of something, such as file descriptors.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class FleetError(Exception):
    """A mistake that a user can fix; its text is one line with the cause and the remedy."""


def component(environ: Mapping[str, str]) -> str | None:
    """Return the component that this process runs, or None if the fleet did not start it."""
    return environ.get(COMPONENT_VARIABLE) or None


def one_line(text: object) -> str:
    """Fold any text (or exception) into one line."""
    return " ".join(str(text).split())


def error_text(error: object, secrets: Iterable[str] = ()) -> str:
    """Return an error in one line without secrets; its type if it has no text."""
    return redact(one_line(error) or type(error).__name__, secrets)


def is_shortage(exc: BaseException | None) -> bool:
    """Return whether a shortage of this process or its host caused an error, so that no server is to blame.

    redis-py raises its own error while it handles that of the operating system. Errors behind the latter don't count:
    a task may have been handling one of them when it called redis-py.
    """
    while exc is not None:
        if isinstance(exc, OSError):
            return exc.errno in _SHORTAGES
        exc = exc.__cause__ or exc.__context__
    return False


def tell_of_connections(environ: Mapping[str, str]) -> None:
    """In an operator's command, report an unreachable Redis in one line; Celery's own commands print a traceback."""
    if component(environ) != "operator":
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        if isinstance(error, (OperationalError, RedisError)):
            what = redact(one_line(error))
            print(f"error: Redis does not answer as it should: {what}", file=sys.stderr, flush=True)
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def refuse(error: FleetError, environ: Mapping[str, str]) -> NoReturn:
    """End one of the fleet's own processes with one line and status 78; raise in any other process.

    Raises:
        SystemExit: with :data:`EX_CONFIG`, if the component is worker, beat or flower.
        celery.exceptions.ImproperlyConfigured: in other processes, so that an application can handle it.
    """
    line = f"celery_fleet: {one_line(error)}"
    if component(environ) in OWN_COMPONENTS:
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(EX_CONFIG)
    from celery.exceptions import ImproperlyConfigured  # the version check must come first

    raise ImproperlyConfigured(line)
