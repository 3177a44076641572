"""Choose how this process fetches messages, atomically or as stock Celery does, and describe what is enabled.

The loader calls it when a worker starts. For atomic fetching it replaces kombu's Redis transport in this process. With
a kombu that is not known it warns and keeps stock's.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from celery_fleet.compat import versions
from celery_fleet.delivery.options import INHERIT, STOCK, Options

logger = logging.getLogger("celery_fleet.delivery")


def install(options: Options, kombu: str | None = None) -> Options:
    """Install the atomic take if it is wanted; return the options that are possible.

    Args:
        options: What is wanted.
        kombu: kombu's version; None for the installed one.
    """
    if not options.atomic:
        return options
    found = kombu or versions.installed()["kombu"] or "of no version"
    if versions.minor(found) not in versions.KOMBU:
        logger.warning(
            "messages are taken as stock Celery does it, without lease, hand-back and the care of lost"
            " connections: kombu %s is not known, only %s",
            found,
            ", ".join(versions.KOMBU),
        )
        return replace(
            options, fetch=STOCK, lease=False, hand_back=False, carry=False, outage=False
        )
    from celery_fleet.delivery.fetch import transport  # only with a kombu that is known

    transport.install()
    return options


def describe(options: Options, visibility: float) -> str | None:
    """Return what is enabled in one line; None if all is stock. ``visibility`` is the timeout in seconds."""
    if options == Options(profile=options.profile) and options.profile == INHERIT:
        return None
    parts = ["atomic take with doorbell" if options.atomic else "stock take"]
    if options.lease:
        parts.append(f"lease {visibility:g} s")
    parts += [
        text
        for text, on in (
            ("hand-back", options.hand_back),
            ("carry", options.carry),
            ("outage guard", options.outage),
            ("dead letters", options.dead_letters),
        )
        if on
    ]
    return f"delivery {options.profile}: {', '.join(parts)}"
