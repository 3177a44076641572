"""Complete gevent's monkey patching of the standard library, which is under way when the loader is imported.

Celery lets gevent patch everything before it imports anything else. But after patching threads, gevent inspects
every existing object. Some of Celery's objects then load the application's settings, and so import the loader. The
loader imports kombu and redis-py, which would keep the unpatched ``select``, ``socket`` and ``sleep``. Each of their
waits would then block all greenlets (gevent 26.9, celery 5.7.0).

One module of kombu is imported even before gevent patches anything, and keeps the unpatched ``sleep``. kombu waits with
it between attempts to reconnect, up to 30 s: all tasks would stand still, and the watchdog would end the worker.
"""

from __future__ import annotations

import sys
import time

#: In the order of gevent's patch_all (gevent/monkey), without the modules that it patches before and after these.
_REST = ("time", "socket", "select", "selectors", "ssl", "subprocess", "queue")


def finish() -> None:
    """Patch the remaining modules and kombu's ``sleep``; do nothing without gevent's patching."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    for name in _REST:
        if not monkey.is_module_patched(name):
            getattr(monkey, f"patch_{name}")()
    functional = sys.modules.get("kombu.utils.functional")
    if functional is not None:
        vars(functional)["sleep"] = time.sleep
