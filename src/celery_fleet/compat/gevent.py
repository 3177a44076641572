"""Complete gevent's monkey patching of the standard library, which is under way when the loader is imported.

Celery has gevent patch everything before it imports anything else. But after patching threads, gevent looks at
every existing object. Some are Celery's and ask for the application's settings, and so for its loader. That imports
kombu and redis-py, which would keep the unpatched ``select``, ``socket`` and ``sleep`` for good: each of their
waits would block all greenlets (gevent 26.9, celery 5.7.0).
"""

from __future__ import annotations

import sys

#: In the order of gevent's patch_all (gevent/monkey), without the modules that it patches before and after these.
_REST = ("time", "socket", "select", "selectors", "ssl", "subprocess", "queue")


def finish() -> None:
    """Patch the remaining modules; do nothing if no patching is under way."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    for name in _REST:
        if not monkey.is_module_patched(name):
            getattr(monkey, f"patch_{name}")()
