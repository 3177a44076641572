"""Pool sizes that operators have given to workers (`celery-fleet scale`), until they reset them.

The broker keeps them in the hash `celery_fleet.delivery.keys.POOL_SIZES`, so they outlast crashes, reboots and deploys.
The field is a node, such as ``mail@worker1``; the value is

    {"processes": 6, "inventory": "4", "since": <Unix time>, "by": "ana", "why": "a backlog"}

``inventory`` is what the inventory said at the time, ``4`` or ``2 to 10``. If it says something else later, the worker
deletes the entry, because the inventory's change is a later decision. Standard library only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from celery_fleet.common.counters import SECOND
from celery_fleet.common.pauses import LARGEST, LATEST
from celery_fleet.common.text import shown

#: The smallest and largest size; Celery can't handle more processes.
LOWEST, HIGHEST = 1, 1000


@dataclass(frozen=True)
class PoolSize:
    """The number of processes that an operator wants a worker to have.

    Attributes:
        node: The worker's node, as in the hash.
        processes: The number.
        inventory: What the inventory said when the operator decided.
        since: Unix time.
        by: Who decided; empty if unknown.
        why: The reason that was given; may be empty.
    """

    node: str
    processes: int
    inventory: str
    since: float = 0.0
    by: str = ""
    why: str = ""

    @property
    def words(self) -> str:
        """Return it in words: ``scaled to 6 by ana since 2026-11-23 14:05 UTC: a backlog (inventory: 4)``."""
        moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.since))
        who = f" by {self.by}" if self.by else ""
        why = f": {self.why}" if self.why else ""
        return f"scaled to {self.processes}{who} since {moment}{why} (inventory: {self.inventory})"

    @property
    def entry(self) -> tuple[str, str]:
        """Return the field and value of the hash."""
        value = asdict(self)
        return value.pop("node"), json.dumps(value)


def parse(entries: Mapping[Any, Any]) -> dict[str, PoolSize]:
    """Return the sizes in the broker's hash by node; damaged ones are left out."""
    found = {}
    for field, value in entries.items():
        name = field.decode(errors="replace") if isinstance(field, bytes) else str(field)
        size = _one(name, value)
        if size is not None:
            found[name] = size
    return dict(sorted(found.items()))


def _one(node: str, value: Any) -> PoolSize | None:
    try:
        made = json.loads(value if len(value) <= LARGEST else "")
        processes, since = made["processes"], float(made["since"])
        if type(processes) is not int or not LOWEST <= processes <= HIGHEST:
            return None
        if not 0 <= since < LATEST:  # a date can't show another time, and NaN is none
            return None
        texts = (shown(made[name]) for name in ("inventory", "by", "why"))
        inventory, by, why = texts
        return PoolSize(node, processes, inventory, since, by, why)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def of_node(sizes: Mapping[str, PoolSize], node: str) -> PoolSize | None:
    """Return a node's size; a worker's second instance, which serves while it restarts, has the worker's."""
    worker, _, host = node.partition("@")
    return sizes.get(f"{worker.removesuffix(SECOND)}@{host}")
