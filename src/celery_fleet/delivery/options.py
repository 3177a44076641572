"""Which parts of the delivery are enabled in this process: ``delivery`` in its settings file.

Standard library only: the hand-back reads it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from celery_fleet.common.errors import FleetError

INHERIT, AT_LEAST_ONCE, AT_MOST_ONCE = "inherit", "at_least_once", "at_most_once"
PROFILES = (INHERIT, AT_LEAST_ONCE, AT_MOST_ONCE)
STOCK, ATOMIC = "stock", "atomic"
FETCHES = (STOCK, ATOMIC)


@dataclass(frozen=True)
class Options:
    """One switch for each part; the defaults are stock Celery.

    ``fetch`` says how messages are fetched from Redis. The parts after it need ``atomic``, except ``dead_letters``.
    """

    profile: str = INHERIT
    fetch: str = STOCK
    #: Renew the messages that this worker holds, and put back messages that are no longer renewed.
    lease: bool = False
    #: Seconds after which a message of a worker with the stock fetch counts as abandoned, because such a worker renews
    #: nothing. At least the visibility timeout of these workers.
    stock_visibility: float = 3600.0
    #: Return the messages of a process that died.
    hand_back: bool = False
    #: Keep tasks running when the connection is lost, and acknowledge them on the next one.
    carry: bool = False
    #: Prevent a broker that hangs from blocking the event loop.
    outage: bool = False
    #: Keep messages that can't be run. Stock Celery drops them, or its worker ends.
    dead_letters: bool = False
    #: Seconds until a message of an unknown task is offered again.
    unknown_delay: float = 60.0
    #: Seconds for which such a message is offered before it becomes a dead letter; longer than a rollout takes.
    unknown_for: float = 3600.0
    #: A task that has killed this many processes becomes a dead letter.
    deaths: int = 3
    #: Number of dead letters to keep; the oldest are dropped.
    keep: int = 10_000
    #: A task that failed for good becomes a dead letter if there are fewer dead letters than this; 0 disables it.
    failed: int = 0

    @property
    def atomic(self) -> bool:
        """Return whether one script fetches a message and records it as held."""
        return self.fetch == ATOMIC


_NEED_ATOMIC = ("lease", "hand_back", "carry", "outage")


def parse(document: object) -> Options:
    """Return the options in a settings document's ``delivery``; the stock ones if there is none.

    Raises:
        FleetError: The options are wrong; the text has every mistake.
    """
    if document is None:
        return Options()
    if not isinstance(document, Mapping):
        raise FleetError("delivery must be a mapping")
    errors: list[str] = []
    given: dict[str, Any] = {}
    known: dict[str, type] = {field.name: type(field.default) for field in fields(Options)}
    for name, value in document.items():
        if name not in known:
            errors.append(f"delivery.{name} is not known")
            continue
        wanted = known[name]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            errors.append(f"delivery.{name} is {value!r}, not of type {wanted.__name__}")
        elif name == "failed" and isinstance(value, int) and value >= 0:
            given[name] = value
        elif wanted is not bool and isinstance(value, int | float) and value <= 0:
            least = "0 or more" if name == "failed" else "above 0"
            errors.append(f"delivery.{name} is {value!r}, not {least}")
        else:
            given[name] = value
    options = Options(**given)
    if options.profile not in PROFILES:
        errors.append(f"delivery.profile is {options.profile!r}, not one of {', '.join(PROFILES)}")
    if options.fetch not in FETCHES:
        errors.append(f"delivery.fetch is {options.fetch!r}, not one of {', '.join(FETCHES)}")
    if not options.atomic:
        errors += [
            f"delivery.{name} needs delivery.fetch: {ATOMIC}"
            for name in _NEED_ATOMIC
            if getattr(options, name)
        ]
    if errors:
        raise FleetError("; ".join(errors))
    return options
