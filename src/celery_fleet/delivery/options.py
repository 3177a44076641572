"""What of the delivery is on in this process: ``delivery`` of its settings file.

Standard library alone: the hand-back reads it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from celery_fleet.common.errors import FleetError

INHERIT, AT_LEAST_ONCE, AT_MOST_ONCE = "inherit", "at_least_once", "at_most_once"
PROFILES = (INHERIT, AT_LEAST_ONCE, AT_MOST_ONCE)
STOCK, ATOMIC = "stock", "atomic"
TAKES = (STOCK, ATOMIC)


@dataclass(frozen=True)
class Options:
    """One switch for each part; as it stands here, everything is as stock Celery has it.

    ``take`` is how messages are taken from Redis; the parts after it need ``atomic``, but for
    ``dead_letters``.
    """

    profile: str = INHERIT
    take: str = STOCK
    #: Renew what is held, and put back what nobody renews.
    lease: bool = False
    #: Seconds after which a message of a worker that takes as stock kombu does counts as abandoned, since it
    #: renews nothing: not less than such workers' own visibility timeout.
    stock_visibility: float = 3600.0
    #: Hand back what a dead process held.
    hand_back: bool = False
    #: Tasks go on through a lost connection and are acknowledged on the next one.
    carry: bool = False
    #: A broker that hangs does not block the event loop.
    outage: bool = False
    #: Keep what can't be run, instead of dropping it or dying of it.
    dead_letters: bool = False
    #: Seconds until a message whose task is unknown is offered again, ...
    unknown_delay: float = 60.0
    #: ... and for how long, from when it was first unknown; longer than a rollout takes.
    unknown_for: float = 3600.0
    #: Processes that may die of a task before it is a dead letter.
    deaths: int = 3
    #: Dead letters that are kept; the oldest go first.
    keep: int = 10_000
    #: While there are fewer dead letters than this, a task that has failed for good becomes one; 0 is never.
    failed: int = 0

    @property
    def atomic(self) -> bool:
        """Whether messages are taken by one script."""
        return self.take == ATOMIC


_NEED_ATOMIC = ("lease", "hand_back", "carry", "outage")


def parse(document: object) -> Options:
    """The options of a settings document's ``delivery``; the stock ones where there is none.

    Raises:
        FleetError: with every mistake found.
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
    if options.take not in TAKES:
        errors.append(f"delivery.take is {options.take!r}, not one of {', '.join(TAKES)}")
    if not options.atomic:
        errors += [
            f"delivery.{name} needs delivery.take: {ATOMIC}"
            for name in _NEED_ATOMIC
            if getattr(options, name)
        ]
    if errors:
        raise FleetError("; ".join(errors))
    return options
