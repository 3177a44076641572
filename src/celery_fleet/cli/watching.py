"""Process the lines of :mod:`celery_fleet.ops.monitoring` for `monitor`: rates, totals, and when to give up."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError

COUNTS = ("received", "started", "succeeded", "failed", "retried")

#: Number of failures that a summary keeps, the latest ones.
KEPT = 1000


def nodes(application: Application, text: str | None) -> list[str]:
    """Return the workers named in a comma-separated list of names or node names; an empty list means all.

    Raises:
        CommandError: The inventory has no such worker.
    """
    if text is None:
        return []
    found: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        own = [node for node in application.workers if name in (node, node.partition("@")[0])]
        if not own:
            raise CommandError(
                f"--workers {name}: there is no such worker; {application.on(name)}", USAGE
            )
        found += own
    if not found:
        raise CommandError("--workers: is empty", USAGE)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Sample:
    """What happened since the previous sample.

    Attributes:
        at: Its end, in UTC.
        span: The number of seconds that it covers.
        elapsed: Seconds since the first sample.
        mean: Mean runtime in seconds of the tasks that succeeded; None if none did.
        workers: By node: whether it answers (`online`), and how its tasks are counted (`source`).
        trouble: Why the workers could not be asked.
    """

    at: datetime
    span: float
    elapsed: float
    counts: Mapping[str, int]
    mean: float | None
    failures: Sequence[Mapping[str, Any]]
    workers: Mapping[str, Mapping[str, Any]]
    queues: Mapping[str, int]
    trouble: str | None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Sample:
        """Create a sample from a line of JSON."""
        return cls(
            at=datetime.fromtimestamp(line["at"], UTC),
            span=line["span"],
            elapsed=line["elapsed"],
            counts={name: int(line["counts"].get(name, 0)) for name in COUNTS},
            mean=line["mean"],
            failures=line["failures"],
            workers=line["workers"],
            queues=line["queues"],
            trouble=line["trouble"],
        )

    @property
    def rates(self) -> dict[str, float]:
        """Return tasks per second."""
        return {
            name: count / self.span if self.span else 0.0 for name, count in self.counts.items()
        }

    @property
    def online(self) -> list[str]:
        """Return the workers that answer."""
        return sorted(node for node, worker in self.workers.items() if worker["online"])

    @property
    def offline(self) -> list[str]:
        """Return the workers that should answer and don't."""
        return sorted(node for node, worker in self.workers.items() if not worker["online"])

    @property
    def by_totals(self) -> list[str]:
        """Return workers that send no task events, so that only the number of started tasks is known."""
        return sorted(node for node, worker in self.workers.items() if worker["source"] == "totals")

    def as_dict(self) -> dict[str, Any]:
        """Return its form in JSON."""
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "elapsed": round(self.elapsed, 3),
            "seconds": round(self.span, 3),
            "counts": dict(self.counts),
            "rates": {name: round(rate, 3) for name, rate in self.rates.items()},
            "mean_runtime": self.mean,
            "failures": list(self.failures),
            "workers": dict(self.workers),
            "queues": dict(self.queues),
            "trouble": self.trouble,
        }


@dataclass
class Summary:
    """Adds up all samples."""

    samples: list[Sample] = field(default_factory=list)
    failures: list[Mapping[str, Any]] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)
    _runtimes: float = 0.0

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self.samples.append(sample)
        self._counts.update(sample.counts)
        self._runtimes += (sample.mean or 0.0) * sample.counts["succeeded"]
        self.failures = [*self.failures, *sample.failures][-KEPT:]

    @property
    def counts(self) -> dict[str, int]:
        """Return the total of each kind."""
        return {name: self._counts[name] for name in COUNTS}

    @property
    def mean(self) -> float | None:
        """Return the mean runtime in seconds of all tasks that succeeded."""
        done = self._counts["succeeded"]
        return self._runtimes / done if done else None

    @property
    def rates(self) -> dict[str, float]:
        """Return tasks per second, on average."""
        seconds = self.samples[-1].elapsed if self.samples else 0.0
        return {name: count / seconds if seconds else 0.0 for name, count in self.counts.items()}

    @property
    def trouble(self) -> str | None:
        """Return the current trouble."""
        return self.samples[-1].trouble if self.samples else None

    @property
    def troubled(self) -> float:
        """Return for how many seconds, up to now, the workers could not be asked."""
        since = None
        for sample in reversed(self.samples):
            if not sample.trouble:
                break
            since = sample.elapsed - sample.span
        return self.samples[-1].elapsed - since if since is not None else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return its form in JSON, without the samples."""
        last = self.samples[-1] if self.samples else None
        return {
            "seconds": round(last.elapsed, 3) if last else 0.0,
            "counts": self.counts,
            "rates": {name: round(rate, 3) for name, rate in self.rates.items()},
            "mean_runtime": self.mean,
            "failures": self.failures,
            "online": last.online if last else [],
            "offline": last.offline if last else [],
            "by_totals": last.by_totals if last else [],
            "queues": dict(last.queues) if last else {},
            "trouble": self.trouble,
        }


class OutputFile:
    """A file that is replaced atomically; whether it can be written is checked before any waiting."""

    def __init__(self, name: str) -> None:
        """Create a temporary file next to it.

        Raises:
            CommandError: It can't be written.
        """
        if _strange(name):
            raise CommandError(
                f"--output-file {name}: is a link that another user has put there; use another name",
                USAGE,
            )
        # Keep a link, and replace the file that it points to.
        self.path = Path(os.path.realpath(name))
        try:
            if self.path.exists() and not self.path.is_file():
                raise CommandError(
                    f"--output-file {name}: is not a regular file, and would be replaced", USAGE
                )
            handle, fresh = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        except OSError as error:
            raise CommandError(
                f"--output-file {name}: can't be written to {self.path.parent} ({error.strerror})",
                USAGE,
            ) from None
        self._fresh = Path(fresh)
        self._file = os.fdopen(handle, "w", encoding="utf-8")

    def write(self, text: str) -> None:
        """Write the text and put the file in place.

        Raises:
            CommandError: For example, the disk is full; then the previous file is unchanged.
        """
        try:
            with self._file:
                self._file.write(text)
                self._file.flush()
                os.fsync(self._file.fileno())
            self._fresh.chmod(0o666 & ~_umask())
            self._fresh.replace(self.path)
        except OSError as error:
            raise CommandError(
                f"--output-file {self.path}: can't be written ({error.strerror})"
            ) from None

    def close(self) -> None:
        """Remove the temporary file if it was not used."""
        self._file.close()
        self._fresh.unlink(missing_ok=True)


def _strange(name: str) -> bool:
    """Return whether the name is a link that the kernel would refuse to follow (`protected_symlinks`, proc_sys_fs(5)).

    This runs as root, and in /tmp anyone can make a link to one of root's files. A program that resolves links
    itself, as this one does, bypasses the kernel's protection.
    """
    try:
        link, parent = os.lstat(name), os.stat(os.path.dirname(os.path.abspath(name)))
    except OSError:
        return False
    everybodys = stat.S_ISVTX | stat.S_IWOTH
    return (
        stat.S_ISLNK(link.st_mode)
        and parent.st_mode & everybodys == everybodys
        and link.st_uid not in (os.geteuid(), parent.st_uid)
    )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
