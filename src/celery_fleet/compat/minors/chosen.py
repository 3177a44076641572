"""What differs between the minors of Celery and kombu: a module for each, chosen here and nowhere else.

Most private places are the same in all of them, and are read in `celery_fleet.compat.worker` and its neighbours, which
have the form of 5.7. What another minor lacks or does otherwise stands in its own module, which begins with all of
the next newer one. The two versions are independent: Celery 5.4 and 5.6 run with several minors of kombu.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from celery_fleet.compat import versions


def nearest(found: str | None, known: Sequence[str]) -> str:
    """The minor whose module serves a version: its own, or of one that is refused the nearest older one.

    Args:
        found: the version; None where there is none.
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
