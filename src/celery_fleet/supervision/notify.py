"""Report the process's state to systemd: sd_notify(3) without its library.

The socket's address is removed from the environment when it is read. So neither pool children nor programs that tasks
start can report for the service (``NotifyAccess=main`` refuses them too).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext

logger = logging.getLogger("celery_fleet.watch")

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"

#: Seconds to wait while the service manager's queue is full, so that the caller is not blocked.
SEND_TIMEOUT = 2.0

#: systemd ignores a message of more than 4096 bytes (NOTIFY_BUFFER_MAX).
LARGEST = 4000


class Notifier:
    """The service's connection to its manager; does nothing if there is no manager.

    ``watchdog`` is the manager's deadline between two :meth:`feed` calls in seconds; None without a watchdog.
    ``spare`` is a socket for a process that has opened as many files as it may.
    Only the process that made the notifier can send: a forked child sends nothing.
    """

    def __init__(
        self,
        address: str | None,
        watchdog: float | None = None,
        spare: socket.socket | None = None,
    ) -> None:
        self.watchdog = watchdog
        self._spare = spare
        self._failed = False
        self._address = address
        self._pid = os.getpid()
        self._status: str | None = None

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Create a notifier from the environment's variables and remove them."""
        address = environ.pop(SOCKET_VARIABLE, None)
        usec = environ.pop(WATCHDOG_VARIABLE, "")
        pid = environ.pop(WATCHDOG_PID_VARIABLE, "")
        wanted = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        deadline = int(usec) / 1e6 if wanted else None
        return cls(address, deadline, _open()) if address else cls(None, deadline)

    @property
    def connected(self) -> bool:
        """Return whether there is a manager, and this process may send to it."""
        return self._address is not None and os.getpid() == self._pid

    def ready(self, status: str) -> bool:
        """Report that the service is up."""
        self._status = status
        return self.send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> bool:
        """Set the text that ``systemctl status`` shows; it is sent only when it changes, or could not be sent."""
        if text == self._status:
            return True
        sent = self.send(f"STATUS={text}")
        self._status = text if sent else None
        return sent

    def feed(self) -> bool:
        """Prove to the watchdog that the service works."""
        return self.send("WATCHDOG=1")

    def stopping(self, status: str) -> bool:
        """Report that the service is stopping, by itself or on request."""
        self._status = status
        return self.send("STOPPING=1", f"STATUS={status}")

    def send(self, *assignments: str) -> bool:
        """Send assignments such as ``READY=1`` in one datagram; return False if they could not be sent.

        A long one is cut at its end, so a status comes last.

        It never raises and never blocks for longer than :data:`SEND_TIMEOUT` seconds: a service must not
        fail because its manager does.
        """
        if not self.connected or self._address is None:
            return False
        address = self._address
        if address.startswith("@"):  # Linux's abstract namespace
            address = "\0" + address[1:]
        text = "\n".join(" ".join(part.splitlines()) for part in assignments)
        message = text.encode()[:LARGEST].decode(errors="ignore").encode()
        try:
            with self._line() as line:
                line.sendto(message, address)
        except OSError as exc:
            if not self._failed:
                self._failed = True
                logger.error("systemd can't be told anything: %s", exc)
            return False
        return True

    def _line(self) -> AbstractContextManager[socket.socket]:
        """Return a new socket. A task may have closed the spare one, so that its number may be another file's."""
        try:
            return _open()
        except OSError:  # the process has opened as many files as it may
            if self._spare is None:
                raise
            return nullcontext(self._spare)


def _open() -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    line.settimeout(SEND_TIMEOUT)
    return line
