"""Collect the metrics of all parts side by side. A part that fails or hangs affects no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from celery_fleet.cli.exporter.samples import MetricSample, text
from celery_fleet.health.text import reason

#: Seconds after which a part counts as failed. A scrape is answered within 5 s.
DEADLINE = 4.0

#: Scrapes come a little early or late, and every one of a single Prometheus is to get new values.
_EARLY = 0.9


@dataclass(frozen=True)
class MetricPart:
    """What is collected by itself.

    Attributes:
        name: Its name in the metrics about the exporter.
        collect: Returns its samples, or None if the last ones are still to be used; any exception is its failure.
        failing: Its samples if it fails.
    """

    name: str
    collect: Callable[[], Iterable[MetricSample] | None]
    failing: tuple[MetricSample, ...] = ()


@dataclass(frozen=True)
class _Outcome:
    """What a part has last found; `error` is empty if it did not fail."""

    samples: Sequence[MetricSample] = ()
    error: str = ""
    seconds: float = 0.0
    collected: float = 0.0


class _Runner:
    """Runs one part, in a thread for each collection but never in two at a time."""

    def __init__(self, part: MetricPart) -> None:
        self.part = part
        self._outcome = _Outcome()
        self._thread = threading.Thread()
        self._began = 0.0

    def start(self) -> None:
        if not self._thread.is_alive():
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._run, name=self.part.name, daemon=True)
            self._thread.start()

    def outcome(self, deadline: float) -> _Outcome:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            seconds = time.monotonic() - self._began
            return _Outcome(self.part.failing, f"no answer within {DEADLINE:g} s", seconds)
        return self._outcome

    def _run(self) -> None:
        collected = time.time()
        try:
            found = self.part.collect()
            if found is None:
                return
            samples, error = list(found), ""
        except Exception as failure:  # noqa: BLE001  # the other parts go on
            samples, error = list(self.part.failing), reason(failure)
        seconds = time.monotonic() - self._began
        self._outcome = _Outcome(samples, error, seconds, collected)


class Collector:
    """Collects all parts when it is asked, at most once in an interval, and says in the journal what fails.

    Args:
        parts: The parts.
        interval: Seconds; within them the last answer is given again.
        extra: Returns samples that are always there.
        say: Prints a line to the journal.
    """

    def __init__(
        self,
        parts: Iterable[MetricPart],
        interval: float,
        extra: Callable[[], Iterable[MetricSample]],
        say: Callable[[str], None],
    ) -> None:
        self._runners = [_Runner(part) for part in parts]
        self._interval = interval * _EARLY
        self._extra = extra
        self._say = say
        self._lock = threading.Lock()
        self._text = b""
        self._began = float("-inf")
        self._errors: dict[str, str] = {}

    def text(self) -> bytes:
        """Return all metrics in Prometheus's format."""
        with self._lock:
            now = time.monotonic()
            if now - self._began >= self._interval:
                self._text = text(self._samples(now + DEADLINE))
                self._began = now
            return self._text

    def _samples(self, deadline: float) -> Iterator[MetricSample]:
        for runner in self._runners:
            runner.start()
        for runner in self._runners:
            found, own = runner.outcome(deadline), (runner.part.name,)
            yield from found.samples
            yield MetricSample("celery_fleet_collect_seconds", found.seconds, own)
            yield MetricSample("celery_fleet_collect_error", float(bool(found.error)), own)
            if not found.error:
                yield MetricSample("celery_fleet_collected_timestamp_seconds", found.collected, own)
            self._tell(runner.part.name, found.error)
        yield from self._extra()

    def _tell(self, name: str, error: str) -> None:
        """Print a new error, and the end of one."""
        before = self._errors.get(name, "")
        if error != before:
            self._errors[name] = error
            self._say(f"<4>{name}: {error}" if error else f"<6>{name}: works again")
