"""Keep remote control when it loses its connection, with gevent and eventlet (celery/worker/pidbox.py, gPidbox).

There it has its own connection, in a greenlet that a lost connection ends with a traceback. Until the consumer itself
reconnects, the worker then answers no remote control. The code is the same in Celery 5.4 to 5.7.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.worker import pidbox

from celery_fleet.common.errors import error_text

logger = logging.getLogger("celery_fleet")

#: Seconds until it connects again.
PAUSE = 1.0


class ReconnectingPidbox(pidbox.gPidbox):  # type: ignore[misc]  # Celery ships no types
    """Remote control that connects again for as long as the consumer has a connection."""

    def loop(self, c: Any) -> None:
        """Answer remote control until the consumer stops this or loses its own connection."""
        while True:
            try:
                super().loop(c)
            except c.connection_errors as exc:
                logger.warning("remote control: connection to broker lost (%s)", error_text(exc))
            else:
                return
            # Each call of loop() makes a new event; None if the consumer has stopped this meanwhile.
            shutdown = self._node_shutdown
            if shutdown is None or shutdown.wait(PAUSE) or not c.connection:
                return


def install() -> None:
    """Use it in this process's workers; call this before they build their blueprints."""
    # The step Control looks the class up when it is created (celery/worker/consumer/control.py).
    pidbox.gPidbox = ReconnectingPidbox
