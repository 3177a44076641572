"""Choose the modules for the installed minors of Celery and kombu; nothing else may choose one.

Most private attributes are the same in all minors. `celery_fleet.compat.worker` and its neighbours read them as they
are in 5.7. If an older minor differs, its module here overrides what it imports from the next newer one. The two
versions are independent: Celery 5.4 and 5.6 run with several minors of kombu.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from celery_fleet.compat import versions


def nearest(found: str | None, known: Sequence[str]) -> str:
    """Return the minor to use for a version: its own, or the nearest older minor if it is not supported.

    Args:
        found: the version, or None if the package is not installed.
        known: the minors that have a module, in any order.
    """

    def parts(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(".") if part.isdigit())

    ordered = sorted(known, key=parts)
    older = [minor for minor in ordered if parts(minor) <= parts(versions.minor(found or ""))]
    return older[-1] if older else ordered[0]


if TYPE_CHECKING:
    from celery_fleet.compat.minors import celery57, kombu57

    celery, kombu = celery57, kombu57
else:

    def _module(package: str, known: Sequence[str]) -> object:
        minor = nearest(versions.installed()[package], known)
        return import_module(f"{__package__}.{package}{minor.replace('.', '')}")

    celery = _module("celery", versions.CELERY)
    kombu = _module("kombu", versions.KOMBU)
