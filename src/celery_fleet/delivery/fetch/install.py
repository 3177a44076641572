"""Choose how this process fetches messages, atomically or as in stock Celery, and describe the enabled parts.

The loader calls it when a worker starts. For the atomic fetch it replaces kombu's Redis transport in this process. With
an unsupported kombu it logs a warning and keeps the stock transport.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from celery_fleet.compat import versions
from celery_fleet.delivery.options import INHERIT, STOCK, Options

logger = logging.getLogger("celery_fleet.delivery")


def install(options: Options, kombu: str | None = None) -> Options:
    """Install the atomic fetch if it is requested; return the options without those that are not possible.

    Args:
        options: The requested options.
        kombu: kombu's version; None for the installed one.
    """
    if not options.atomic:
        return options
    found = kombu or versions.installed()["kombu"] or "of no version"
    if versions.minor(found) not in versions.KOMBU:
        logger.warning(
            "messages are fetched as in stock Celery, without lease, hand-back and protection from lost"
            " connections: kombu %s is not supported, only %s",
            found,
            ", ".join(versions.KOMBU),
        )
        return replace(
            options, fetch=STOCK, lease=False, hand_back=False, carry=False, outage=False
        )
    from celery_fleet.delivery.fetch import transport  # it needs a supported kombu

    transport.install()
    return options


def describe(options: Options, visibility: float) -> str | None:
    """Return one line about the enabled parts; None if all is stock. ``visibility`` is the timeout in seconds."""
    if options == Options(profile=options.profile) and options.profile == INHERIT:
        return None
    parts = ["atomic fetch with pushes" if options.atomic else "stock fetch"]
    if options.lease:
        parts.append(f"lease {visibility:g} s")
    parts += [
        text
        for text, on in (
            ("hand-back", options.hand_back),
            ("tasks kept on reconnect", options.carry),
            ("outage guard", options.outage),
            ("dead letters", options.dead_letters),
        )
        if on
    ]
    return f"delivery {options.profile}: {', '.join(parts)}"
