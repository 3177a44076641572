"""A thread that does something again and again. Standard library only."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Periodic(ABC):
    """Call `turn` in a daemon thread until `stop`.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def turn(self) -> float:
        """Do what is due; return the seconds until the next turn. It must not raise."""

    def start(self) -> None:
        """Start the thread; calling it again is harmless."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; wait for a second at most, since it may be waiting for an answer."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._stop.wait(self.turn())
