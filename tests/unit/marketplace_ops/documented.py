"""What the document of Marketplace Ops says. It is typed by hand in the scenario's tests, and imported from there."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from tests.contract.test_repository import ROOT

_PATH = ROOT / "molecule/database_fleets/tests/documented.py"
_spec = importlib.util.spec_from_file_location("documented_marketplace_ops", _PATH)
assert _spec is not None
assert _spec.loader is not None
_written = importlib.util.module_from_spec(_spec)
# Dataclasses look up their module there.
sys.modules[_spec.name] = _written
_spec.loader.exec_module(_written)


def _time(when: Any) -> dict[str, Any]:
    """Return a time as the inventory writes it."""
    if isinstance(when, _written.Every):
        return {"interval": when.seconds}
    day = {} if when.day == -1 else {"day_of_week": when.day}
    return {"crontab": {"minute": when.minute, "hour": when.hour, **day}}


# Queue -> its worker's concurrency and its tasks.
QUEUES: dict[str, tuple[int, tuple[str, ...]]] = {
    queue: (_written.CONCURRENCIES[queue], tuple(tasks)) for queue, tasks in _written.TASKS.items()
}

# Task -> its queue.
TASKS: dict[str, str] = _written.QUEUES

# Entry -> its task and when it runs.
SCHEDULE: dict[str, tuple[str, dict[str, Any]]] = {
    name: (task, _time(when)) for name, (task, when) in _written.ENTRIES.items()
}
