"""Judges a canary: the first worker that runs a new release, beside workers that run the old one.

Pure functions of figures that the script `turn` reads on the host: the worker's own counts of its tasks, which it
writes every 10 s, and the memory of its processes. The new release is compared with the old one in the same seconds if
both ran enough tasks, otherwise with everything that the worker had counted before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils import routing, text

#: A task is compared by its run time if it succeeded this often with either release.
_COMPARED = 3
# Differences that are too small to matter: seconds of a task's run time, bytes of a process, failed tasks.
_SECONDS, _BYTES, _FAILURES = 0.05, 32 * 2**20, 2
# Standard errors by which figures may differ by chance.
_CHANCE = 3.0
# Part of the observation after which the memory of a fresh process is considered settled.
_SETTLED = 0.5
# As the runtime's `celery_fleet.worker.task_counts` calls tasks that it does not count by name.
_OTHERS = "other"
_MEBIBYTE, _KIBIBYTE = 2**20, 2**10


@dataclass(frozen=True)
class CanaryLimits:
    """By how much the new release may be worse.

    Attributes:
        seconds: How long the canary is observed.
        min_tasks: Tasks that must end meanwhile; 0 accepts a canary without tasks.
        max_failures: Percentage points by which more of its tasks may fail.
        max_slowdown: Factor by which the same tasks may take longer on average.
        max_memory: Factor by which its processes may be larger.
        max_growth: KiB by which its memory may grow with each task, more than that of the old release.
    """

    seconds: float = 60
    min_tasks: int = 20
    max_failures: float = 5
    max_slowdown: float = 2
    max_memory: float = 1.5
    max_growth: float = 256


@dataclass(frozen=True)
class Count:
    """What has become of one task.

    Attributes:
        succeeded: How often it succeeded, and `failed` how often it failed.
        seconds: Run times of the successes, added up.
        buckets: Number of successes in each bucket of the histogram of run times.
    """

    succeeded: int = 0
    failed: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Return the mean run time of the successes."""
        return self.seconds / self.succeeded if self.succeeded else 0.0


Counts = Mapping[str, Count]


@dataclass(frozen=True)
class Figures:
    """The figures of one worker at one moment.

    Attributes:
        counts: Its counts by task, or None if it does not count.
        memory: Bytes of all its processes.
        processes: Number of its processes.
        tasks: The tasks that its release registers, or None if that is not known.
        bounds: Upper bounds of the histograms' buckets but the last, in seconds; empty with an older runtime.
    """

    counts: Counts | None = None
    memory: int = 0
    processes: int = 0
    tasks: frozenset[str] | None = None
    bounds: tuple[float, ...] = ()

    @property
    def size(self) -> float:
        """Return the bytes of one process."""
        return self.memory / self.processes if self.processes else 0.0


def figures(raw: Mapping[str, Any] | None) -> Figures:
    """Return what the script `turn` has found for a unit."""
    if not raw:
        return Figures()
    counts, tasks = raw.get("counts"), raw.get("tasks")
    return Figures(
        None
        if counts is None
        else {
            str(name): Count(one[0], one[1], one[2], tuple(one[3])) for name, one in counts.items()
        },
        int(raw.get("memory") or 0),
        int(raw.get("processes") or 0),
        None if tasks is None else frozenset(map(str, tasks)),
        tuple(raw.get("bounds") or ()),
    )


@dataclass(frozen=True)
class Verdict:
    """A judgement.

    Attributes:
        figures: The comparison, one line each.
        refusals: Why the release is refused; empty if it is not.
        tasks: Number of tasks that ended in the canary.
    """

    figures: tuple[str, ...]
    refusals: tuple[str, ...]
    tasks: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as data."""
        return {
            "figures": list(self.figures),
            "refusals": list(self.refusals),
            "tasks": self.tasks,
        }


@dataclass
class Observation:
    """Collects the figures of a canary, and of the worker with the old release.

    Attributes:
        limits: By how much the new release may be worse.
        before: Figures of the worker before the canary started.
    """

    limits: CanaryLimits
    before: Figures
    _new: list[tuple[float, Figures]] = field(default_factory=list)
    _old: list[Figures] = field(default_factory=list)

    def add(self, seconds: float, new: Figures, old: Figures | None) -> None:
        """Add figures.

        Args:
            seconds: Time since the beginning of the observation.
            new: Figures of the canary.
            old: Figures of the old release's process that serves beside it, if there is one.
        """
        self._new.append((seconds, new))
        if old is not None:
            self._old.append(old)

    def failing(self) -> bool:
        """Return whether so many tasks have failed that the rest of the time need not be waited for."""
        new = self._ran()
        enough = _ended(new) >= max(self.limits.min_tasks, 1)
        return bool(self._new) and (
            bool(self._lacking()) or (enough and bool(self._failures(new)[1]))
        )

    @property
    def tasks(self) -> int:
        """Return how many tasks have ended in the canary."""
        return _ended(self._ran())

    def verdict(self) -> Verdict:
        """Judge everything that was seen."""
        limits, new = self.limits, self._ran()
        ended = _ended(new)
        if not self._new or self._new[-1][1].counts is None:
            why = "its tasks are not counted: set celery_app_metrics to true, or celery_canary_seconds to 0"
            return Verdict((), (f"failures and run time could not be judged, because {why}",), 0)
        if lacking := self._lacking():
            return Verdict((), (lacking,), ended)
        if ended < limits.min_tasks:
            return Verdict((), (self._too_few(ended),), ended)
        judged = [self._failures(new), self._slowdown(new), self._memory(), self._growth()]
        return Verdict(
            tuple(line for line, _ in judged if line),
            tuple(refusal for _, refusal in judged if refusal),
            ended,
        )

    def _too_few(self, ended: int) -> str:
        limits = self.limits
        return (
            f"failures and run time could not be judged: {text.count(ended, 'task')} ended in {limits.seconds:g} s, "
            f"and {limits.min_tasks} are needed. Observe it for longer (celery_canary_seconds), name a worker that has "
            "more to do (celery_canary_worker), or accept fewer (-e celery_canary_min_tasks=0)"
        )

    # -- what ran ---------------------------------------------------------------------------------------

    def _ran(self) -> Counts:
        """Return what has ended in the canary since the observation began."""
        return _difference(self._new[-1][1], self._new[0][1]) if self._new else {}

    def _baseline(self) -> tuple[Counts, str]:
        """Return what the new release is compared with, and when that ran."""
        beside = _difference(self._old[-1], self._old[0]) if self._old else {}
        if _ended(beside) >= max(self.limits.min_tasks, 1):
            return beside, "beside it"
        return self.before.counts or {}, "before"

    def _lacking(self) -> str:
        """Return which tasks ran meanwhile that the new release does not have: their messages would wait in vain."""
        known = self._new[-1][1].tasks
        if known is None or not self._old:
            return ""
        lacking = [
            name
            for name, one in _difference(self._old[-1], self._old[0]).items()
            # Of very many tasks, a worker counts some together.
            if one.succeeded + one.failed and name != _OTHERS and routing.lacks(known, name)
        ]
        if not lacking:
            return ""
        return (
            f"the release has no task {', '.join(sorted(lacking))}, which ran beside it. Keep it for one more release "
            "that still runs what is sent under this name, and stop sending it"
        )

    def _failures(self, new: Counts) -> tuple[str, str]:
        ended = _ended(new)
        if not ended:
            return "", ""
        old, when = self._baseline()
        failed, compared = sum(one.failed for one in new.values()), _ended(old)
        rate = 100 * failed / ended
        usual = 100 * sum(one.failed for one in old.values()) / compared if compared else 0.0
        line = f"{rate:.1f} % of {text.count(ended, 'task')} failed"
        line += f" ({when} {usual:.1f} % of {compared})" if compared else ""
        # With few tasks the rate differs by chance.
        chance = _CHANCE * math.sqrt(usual * (100 - usual) / ended)
        worse = rate > usual + max(self.limits.max_failures, chance) and failed >= _FAILURES
        return _judged(line, worse, f"max_failures allows {self.limits.max_failures:g} more")

    def _slowdown(self, new: Counts) -> tuple[str, str]:
        """Judge mean and median: a few long tasks change the mean by chance, and hide that short ones are slower."""
        (old, when), bounds = self._baseline(), self._new[-1][1].bounds
        both = [
            (one, old[name])
            for name, one in new.items()
            if min(one.succeeded, old.get(name, Count()).succeeded) >= _COMPARED
        ]
        if not both or not bounds:
            return "run time could not be compared: no task ran often enough with both releases", ""
        number = sum(one.succeeded for one, _ in both)
        took, usual = (
            sum(weight.succeeded * each.mean for weight, each in pairs) / number
            for pairs in ([(one, one) for one, _ in both], both)
        )
        middle, usual_middle = (
            sum(weight.succeeded * _median(each, bounds) for weight, each in pairs) / number
            for pairs in ([(one, one) for one, _ in both], both)
        )
        error = math.sqrt(
            sum(
                (one.succeeded / number) ** 2
                * (
                    _variance(one, bounds) / one.succeeded
                    + _variance(other, bounds) / other.succeeded
                )
                for one, other in both
            )
        )
        line = (
            f"a task took {_time(took)} on average ({when} {_time(usual)}), and half of them about {_time(middle)} "
            f"({when} {_time(usual_middle)})"
        )
        factor = self.limits.max_slowdown
        worse = (took > usual * factor and took - usual > max(_SECONDS, _CHANCE * error)) or (
            middle > usual_middle * factor and middle - usual_middle > _SECONDS
        )
        return _judged(line, worse, f"max_slowdown allows {factor:g} times")

    def _memory(self) -> tuple[str, str]:
        size, usual = self._new[-1][1].size, self.before.size
        if not size or not usual:
            return "", ""
        line = f"{size / _MEBIBYTE:.0f} MiB for each process (before {usual / _MEBIBYTE:.0f} MiB)"
        worse = size > usual * self.limits.max_memory and size - usual > _BYTES
        return _judged(line, worse, f"max_memory allows {self.limits.max_memory:g} times")

    def _growth(self) -> tuple[str, str]:
        """Judge the second half of the observation, because a process grows while it runs its first tasks."""
        half = _SETTLED * self._new[-1][0]
        begin = next(seen for seconds, seen in self._new if seconds >= half)
        grown = _grown([begin, self._new[-1][1]])
        if grown is None:
            return "", ""
        usual = max(_grown(self._old) or 0.0, 0.0)
        line = f"memory grew by {max(grown, 0.0) / _KIBIBYTE:.0f} KiB with each task"
        line += f" (beside it {usual / _KIBIBYTE:.0f} KiB)" if self._old else ""
        total = self._new[-1][1].memory - begin.memory
        worse = grown > usual + self.limits.max_growth * _KIBIBYTE and total > _BYTES
        return _judged(line, worse, f"max_growth allows {self.limits.max_growth:g} KiB more")


def _judged(line: str, worse: bool, allowed: str) -> tuple[str, str]:
    """Return a comparison, and why the release is refused for it; the latter is empty if it is not."""
    return line, f"{line}; celery_canary_{allowed}" if worse else ""


def _median(count: Count, bounds: Sequence[float]) -> float:
    """Return the median run time, as if the values of a bucket were spread evenly over it."""
    half, below = sum(count.buckets) / 2, 0
    for number, low, high in zip(count.buckets, (0.0, *bounds), (*bounds, bounds[-1]), strict=True):
        if number and below + number >= half:
            return low + (high - low) * (half - below) / number
        below += number
    return 0.0


def _variance(count: Count, bounds: Sequence[float]) -> float:
    """Return the variance of the run times, as if all values of a bucket were in its middle."""
    total = sum(count.buckets)
    pairs = zip((0.0, *bounds), (*bounds, 2 * bounds[-1]), strict=True)
    middles = [(low + high) / 2 for low, high in pairs]
    values = list(zip(count.buckets, middles, strict=True))
    if not total:
        return 0.0
    mean = sum(number * value for number, value in values) / total
    return sum(number * (value - mean) ** 2 for number, value in values) / total


def _difference(after: Figures, before: Figures) -> Counts:
    if after.counts is None:
        return {}
    earlier = before.counts or {}
    found = {}
    for name, one in after.counts.items():
        old = earlier.get(name, Count())
        found[name] = Count(
            one.succeeded - old.succeeded,
            one.failed - old.failed,
            one.seconds - old.seconds,
            tuple(a - b for a, b in zip_longest(one.buckets, old.buckets, fillvalue=0)),
        )
    return found


def _ended(counts: Counts) -> int:
    return sum(one.succeeded + one.failed for one in counts.values())


def _grown(seen: list[Figures]) -> float | None:
    """Return by how many bytes the memory has grown with each task; None without tasks."""
    ended = _ended(_difference(seen[-1], seen[0])) if seen else 0
    if not ended or not seen[0].memory or seen[0].processes != seen[-1].processes:
        return None
    return (seen[-1].memory - seen[0].memory) / ended


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def limits(raw: Mapping[str, Any] | None) -> CanaryLimits | None:
    """Return the limits that a role gives; None if no canary is to be observed."""
    if not raw or not float(raw.get("seconds") or 0):
        return None
    numbers = {name: float(raw[name]) for name in ("seconds", *_ALLOWED)}
    return CanaryLimits(min_tasks=int(raw["min_tasks"]), **numbers)


_ALLOWED = ("max_failures", "max_slowdown", "max_memory", "max_growth")
