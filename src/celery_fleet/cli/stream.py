"""Read lines of JSON from a program in the release's Python, waiting a limited time for each."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, Self

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import CommandError
from celery_fleet.health.in_release import module_options

#: Seconds that the program gets to end after it is asked to.
GRACE = 4.0


class Stream:
    """A running program and its output."""

    def __init__(self, application: Application, module: str, request: Mapping[str, Any]) -> None:
        """Start the program.

        Raises:
            CommandError: It can't be run.
        """
        try:
            self._process: subprocess.Popen[str] = subprocess.Popen(
                **module_options(application, module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except (OSError, KeyError) as error:
            raise CommandError(
                f"the release's Python can't be run: {error}; run site.yml again"
            ) from None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None  # noqa: S101  # a pipe was requested above
            self._process.stdin.write(json.dumps(dict(request)))
            self._process.stdin.close()

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._lines.put(line)
        self._lines.put(None)

    def lines(self, seconds: float, first: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield the lines that the program prints, until it ends.

        Args:
            seconds: How long it may be silent.
            first: How long to wait for its first line, if different.

        Raises:
            CommandError: It was silent for longer, or printed something else.
        """
        patience = seconds if first is None else first
        while True:
            try:
                line = self._lines.get(timeout=max(patience, 0))
            except queue.Empty:
                raise CommandError(
                    f"no data about the workers for {patience:.0f} s; see `celery-fleet status`"
                ) from None
            patience = seconds
            if line is None:
                return
            try:
                found = json.loads(line)
            except ValueError:
                raise CommandError(f"the release's Python said: {line.strip()}") from None
            yield found

    def stop(self) -> Iterator[dict[str, Any]]:
        """Ask the program to end, and yield its remaining lines."""
        self._process.terminate()
        with suppress(CommandError):
            yield from self.lines(GRACE)

    def abandon(self) -> None:
        """Kill the program at once: it can't remove its queue from a broker that does not answer."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the program; it ends by itself within its grace period unless the broker hangs."""
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
