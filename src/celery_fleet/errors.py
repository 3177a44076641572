"""How the runtime refuses to go on: one line that names the cause and the remedy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

#: Exit status of a configuration error, from ``sysexits.h``.
EX_CONFIG = 78

#: The components whose process is the fleet's own; in a producer the process is the application's.
OWN_COMPONENTS = frozenset({"worker", "beat", "flower"})

COMPONENT_VARIABLE = "CELERY_FLEET_COMPONENT"


class FleetError(Exception):
    """A mistake that a person can mend; its text is one line with the cause and the remedy."""


def component(environ: Mapping[str, str]) -> str | None:
    """The component that this process is, or None where the fleet did not start it."""
    return environ.get(COMPONENT_VARIABLE) or None


def one_line(text: object) -> str:
    """Fold any text (or exception) into one line."""
    return " ".join(str(text).split())


def refuse(error: FleetError, environ: Mapping[str, str]) -> NoReturn:
    """End a process of the fleet's own with one line and status 78; raise in any other.

    Raises:
        SystemExit: with :data:`EX_CONFIG`, where the component is worker, beat or flower.
        celery.exceptions.ImproperlyConfigured: elsewhere, so that an application can handle it.
    """
    line = f"celery_fleet: {one_line(error)}"
    if component(environ) in OWN_COMPONENTS:
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(EX_CONFIG)
    from celery.exceptions import ImproperlyConfigured  # the version check must come first

    raise ImproperlyConfigured(line)
