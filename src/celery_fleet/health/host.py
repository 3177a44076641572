"""Check the host's disks, memory, processors, kernel, logs and clock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from celery_fleet.common import filesystem
from celery_fleet.common.redis_client import Client
from celery_fleet.health.redis_checks import server
from celery_fleet.health.result import GOOD, WARNING, Finding, worst
from celery_fleet.health.setup import CheckError, Setup, size
from celery_fleet.health.text import combined

#: The largest number of files to look at in one directory of logs.
_MOST_FILES = 100_000
#: How many connections Redis lets wait (`tcp-backlog`), if the kernel does.
_BACKLOG = 511


def disk(setup: Setup) -> Finding:
    """Check the free space and the free inodes of the filesystems that the fleet writes to."""
    seen: dict[int, str] = {}
    for path in setup.paths:
        with contextlib.suppress(FileNotFoundError):
            seen.setdefault(os.stat(path).st_dev, path)
    parts, value, words = [], {}, []
    for path in seen.values():
        system = os.statvfs(path)
        free, usable = filesystem.space(system)
        percent = 100 * free / usable if usable else 100.0
        # Some filesystems have no fixed number of inodes.
        inodes = 100 * system.f_favail / system.f_files if system.f_files else 100.0
        value[path] = {
            "free_percent": round(percent, 1),
            "free_bytes": free,
            "free_inodes_percent": round(inodes, 1),
        }
        text = f"{path}: {percent:.1f} % free ({size(free)})"
        words.append(text)
        state = worst(
            (
                setup.state_of("disk_free_percent", percent),
                setup.state_of("disk_free_mb", free / 1e6),
            )
        )
        parts.append((state, text))
        parts.append(
            (
                setup.state_of("inodes_free_percent", inodes),
                f"{path}: {inodes:.1f} % of inodes free",
            )
        )
    return combined(parts, ", ".join(words), value)


def memory(setup: Setup, path: Path = Path("/proc/meminfo")) -> Finding:
    """Check the available memory, and how full swap is."""
    found = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in path.read_text().splitlines())
        if rest.split()
    }
    available = found["MemAvailable"]
    percent = 100 * available / found["MemTotal"]
    total = found.get("SwapTotal", 0)
    used = 100 * (1 - found.get("SwapFree", 0) / total) if total else 0.0
    text = f"{percent:.0f} % available ({size(available)})"
    return combined(
        [
            (setup.state_of("memory_available_percent", percent), text),
            (
                setup.state_of("swap_used_percent", used) if total else GOOD,
                f"{used:.0f} % of swap used",
            ),
        ],
        text,
        {
            "available_percent": round(percent, 1),
            "available_bytes": available,
            "swap_used_percent": round(used, 1),
        },
    )


def cpu(setup: Setup) -> Finding:
    """Check the load of the last five minutes for each core."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[1]
    return Finding(
        setup.state_of("load_per_core", load / cores),
        f"load {load:.2f} on {cores} {'core' if cores == 1 else 'cores'} over five minutes",
        {"load5": round(load, 2), "cores": cores, "per_core": round(load / cores, 2)},
    )


def kernel(setup: Setup, root: Path = Path("/proc/sys")) -> Finding:
    """Check the kernel's settings for Redis, which can't warn about them itself: its sandbox hides them."""
    overcommit = int((root / "vm/overcommit_memory").read_text())
    waiting = int((root / "net/core/somaxconn").read_text())
    memory_is, waiting_is = (
        f"vm.overcommit_memory = {overcommit}",
        f"net.core.somaxconn = {waiting}",
    )
    return combined(
        [
            (WARNING if overcommit == 2 else GOOD, f"{memory_is}: Redis may fail to save"),
            (
                WARNING if waiting < _BACKLOG else GOOD,
                f"{waiting_is}: connections to Redis may be refused",
            ),
        ],
        f"{memory_is}, {waiting_is}",
        {"vm.overcommit_memory": overcommit, "net.core.somaxconn": waiting},
    )


def _sizes(directory: Path) -> Iterator[int]:
    waiting, left = [directory], _MOST_FILES
    while waiting:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(waiting.pop()) as entries,
        ):
            for entry in entries:
                left -= 1
                if left < 0:
                    raise CheckError(f"{directory} has more than {_MOST_FILES} files")
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        yield entry.stat(follow_symlinks=False).st_size


def logs(
    setup: Setup, journals: Sequence[Path] = (Path("/var/log/journal"), Path("/run/log/journal"))
) -> Finding:
    """Check the size of the application's logs. The journal limits itself, so its size is only reported."""
    sizes = {path: sum(_sizes(Path(path))) for path in setup.logs if os.path.isdir(path)}
    journal = sum(sum(_sizes(path)) for path in journals)
    words = [f"{path} {size(number)}" for path, number in sizes.items()]
    return Finding(
        setup.state_of("logs_mb", sum(sizes.values()) / 1e6),
        ", ".join([*words, f"journal {size(journal)}"]),
        {"bytes": sizes, "journal_bytes": journal},
    )


def clock(setup: Setup) -> Finding:
    """Check how far this host's clock is from the clock of the broker's host."""
    with Client(server(setup, "broker")) as client:
        before = time.time()
        seconds, micro = client.ask("TIME")
        after = time.time()
    offset = (before + after) / 2 - (int(seconds) + int(micro) / 1e6)
    # Half of the time that the answer took is uncertain.
    sure = max(0.0, abs(offset) - (after - before) / 2)
    return Finding(
        setup.state_of("clock_offset_seconds", sure),
        f"{abs(offset):.2f} s {'ahead of' if offset > 0 else 'behind'} the broker's host",
        {"offset_seconds": round(offset, 3)},
    )
