"""Lines of JSON from a program of the runtime in the release's Python, each awaited for so long and no longer."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from celery_fleet.cli import ask
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import CommandError, need_root

#: Seconds that it gets to end when it is asked to.
GRACE = 4.0


class Stream:
    """A program that runs, and what it prints."""

    def __init__(self, application: Application, module: str, request: Mapping[str, Any]) -> None:
        """Start it.

        Raises:
            CommandError: It can't be run.
        """
        python = ask.python_of(application)
        try:
            self._process = subprocess.Popen(
                [str(python), "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                **ask.apart(application),
            )
        except PermissionError:
            raise need_root(python) from None
        except OSError as error:
            raise CommandError(f"{python} can't be run: {error}; run site.yml again") from None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None  # noqa: S101  # as it was asked for above
            self._process.stdin.write(json.dumps(dict(request)))
            self._process.stdin.close()

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._lines.put(line)
        self._lines.put(None)

    def lines(self, seconds: float, first: float | None = None) -> Iterator[dict[str, Any]]:
        """What it prints, until it ends.

        Args:
            seconds: How long it may be silent.
            first: How long before its first line, where that is something else.

        Raises:
            CommandError: It was silent for longer, or said something else.
        """
        patience = seconds if first is None else first
        while True:
            try:
                line = self._lines.get(timeout=max(patience, 0))
            except queue.Empty:
                raise CommandError(
                    f"nothing was heard of the workers for {patience:.0f} s; see `celery-fleet status`"
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
        """Ask it to end; what it still says."""
        self._process.terminate()
        with suppress(CommandError):
            yield from self.lines(GRACE)

    def abandon(self) -> None:
        """End it at once: where the broker does not answer there is nothing to be cleared away there."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing behind; it ends by itself within its grace, but where the broker hangs."""
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
