"""Ends what gevent has begun: its patching of the standard library, in the midst of which the loader is imported.

Celery has gevent patch everything before it imports anything. But gevent looks at every object there is
when it has patched threads, objects of Celery's among them that then ask the application's settings, and
so for its loader: with that come kombu and redis-py, which would keep the unpatched ``select``, ``socket``
and ``sleep`` for good, and each wait of theirs would hold all greenlets (gevent 26.9, celery 5.7.0).
"""

from __future__ import annotations

import sys

#: In gevent's own order (gevent/monkey, patch_all), without what comes before and after.
_REST = ("time", "socket", "select", "selectors", "ssl", "subprocess", "queue")


def finish() -> None:
    """Patch the rest; nothing where no patching is under way."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    for name in _REST:
        if not monkey.is_module_patched(name):
            getattr(monkey, f"patch_{name}")()
