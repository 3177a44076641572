"""New locks in a forked process for kombu's cached properties (kombu/utils/objects.py).

Each such property, such as the client of a result backend, has one lock for all objects of its class. If a thread of
the main process holds it while the pool forks a process, it stays held there, and the first task that needs the
property waits for ever. A worker of stock Celery has no such threads. Ours has, for example the one that stores that
a task lost its process, while the pool replaces that process.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache

from kombu.utils.objects import cached_property

#: Packages with such properties.
_PACKAGES = frozenset({"celery", "kombu"})


@cache  # a hook can't be removed, so it must not be added twice
def install() -> None:
    """Give each process that this one forks new locks, before it runs anything else."""
    os.register_at_fork(after_in_child=_renew)


def _renew() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in _PACKAGES:
            continue
        for value in list(vars(module).values()):
            # Not `isinstance`, which would resolve Celery's lazy proxies.
            if issubclass(type(value), type):
                for attribute in vars(value).values():
                    if isinstance(attribute, cached_property):
                        attribute.lock = threading.RLock()
