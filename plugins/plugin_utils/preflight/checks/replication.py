"""Checks what only several Redis hosts have: a primary, its replicas and the Sentinels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from ...desired.option import as_number
from ..model.inventory import Model, Problem, as_text

_HOSTS: Final = ("celery_app_broker_host", "celery_app_results_host")


def check_replication(model: Model) -> Iterator[Problem]:
    """Check the numbers of Sentinels and replicas, and the names of the hosts that begin as primaries."""
    redis = model.members("redis")
    if len(redis) < 2:
        return
    # How many of the hosts each number may count.
    bounds = {
        "redis_sentinel_quorum": (1, len(redis), "Sentinels"),
        "redis_min_replicas_to_write": (0, len(redis) - 1, "replicas"),
    }
    for name, (least, most, what) in bounds.items():
        yield from _number(
            model,
            name,
            (least, most),
            f"can't be reached: {len(redis)} hosts have {most} {what}",
            f"write a number from {least} to {most}, or remove it: the default fits",
        )
    needed = min(
        (as_number(value) or 0 for value, _ in model.distinct("redis_min_replicas_to_write")),
        default=0,
    )
    yield from _number(
        model,
        "celery_app_wait_replicas",
        (0, needed),
        f"is more than redis_min_replicas_to_write, {needed:g}: a primary would accept a task again and again",
        f"write a number from 0 to {needed:g}, or raise redis_min_replicas_to_write",
    )
    yield from _number(
        model,
        "redis_sentinel_down_after",
        (1, math.inf),
        "is so short that a moment without an answer would replace the primary",
        "write at least 1, or remove it: the default is 3",
    )
    for name in _HOSTS:
        for value, hosts in model.distinct(name):
            text = as_text(value)
            if text is not None and text != redis[0]:
                yield Problem(
                    name,
                    f"is not the first host of {model.group_names['redis']}. With several hosts, that one begins as "
                    "the primary, and Sentinels know it by its name in the inventory",
                    f"remove it: by default {redis[0]} begins as the primary",
                    value=model.show((name,), value),
                    hosts=hosts,
                )


def _number(
    model: Model, name: str, bounds: tuple[float, float], message: str, remedy: str
) -> Iterator[Problem]:
    """Refuse a number outside of its bounds; values of other types are refused elsewhere."""
    least, most = bounds
    for value, hosts in model.distinct(name):
        number = as_number(value)
        if number is not None and not least <= number <= most:
            yield Problem(name, message, remedy, value=model.show((name,), value), hosts=hosts)
