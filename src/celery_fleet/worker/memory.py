"""How many more processes a worker's host has memory for.

Its unit may not see ``/proc/meminfo`` (`ProcSubset=pid`), but it can read the same figures of each NUMA node in
``/sys``, and the limits of its control groups (version 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_NODES = Path("/sys/devices/system/node")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")

MIB = 2**20


@dataclass(frozen=True)
class Room:
    """The memory that is left.

    Attributes:
        size: Bytes.
        place: Whose memory it is: ``the host`` or a control group.
    """

    size: float
    place: str


def available(
    meminfo: Path = _MEMINFO, nodes: Path = _NODES, groups: Path = _GROUPS, own: Path = _OWN_GROUP
) -> Room | None:
    """Return the memory that this process and its children may still use; None if nothing says how much."""
    rooms = [*_host(meminfo, nodes), *_limits(groups, own)]
    return min(rooms, key=lambda room: room.size, default=None)


def _host(meminfo: Path, nodes: Path) -> Iterator[Room]:
    try:
        yield Room(_fields(meminfo.read_text())["MemAvailable"], "the host")
        return
    except (OSError, KeyError, ValueError):
        pass
    try:
        found = [
            # Each line begins with "Node" and its number.
            _fields("\n".join(line.split(maxsplit=2)[2] for line in path.read_text().splitlines()))
            for path in nodes.glob("node[0-9]*/meminfo")
        ]
        if found:
            # The kernel can take back caches. Half of them counts, because part of them is in use.
            size = sum(
                one["MemFree"]
                + (one["Active(file)"] + one["Inactive(file)"] + one["SReclaimable"]) / 2
                for one in found
            )
            yield Room(size, "the host")
    except (OSError, KeyError, ValueError, IndexError):
        pass


def _fields(text: str) -> Mapping[str, int]:
    """Return the fields of a file such as ``/proc/meminfo``, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * (1024 if words[-1] == "kB" else 1) for words in lines
    }


def _limits(groups: Path, own: Path) -> Iterator[Room]:
    try:
        lines = own.read_text().splitlines()
        path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = groups / path.lstrip("/")
    while group != groups and groups in group.parents:
        try:
            used = int((group / "memory.current").read_text())
            stat = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The kernel takes back the cache of files before it kills, or slows down, a process.
            cache = next((int(value) for name, value in stat if name == "inactive_file"), 0)
            for name in ("memory.max", "memory.high"):
                limit = (group / name).read_text().strip()
                if limit != "max":
                    yield Room(int(limit) - used + cache, f"{name} of {group.name}")
        except (OSError, ValueError):
            pass
        group = group.parent


def sizes(pids: Iterable[int], proc: Path = Path("/proc")) -> list[int]:
    """Return the bytes of memory of each process, where pages that several processes share count in part."""
    found = []
    for pid in pids:
        try:
            text = (proc / str(pid) / "smaps_rollup").read_text()
            found.append(_fields(text.partition("\n")[2])["Pss"])
        except (OSError, KeyError, ValueError):  # it has just ended
            continue
    return found


class Memory:
    """Says for how many more processes there is memory."""

    def __init__(self) -> None:
        # Bytes; the largest average so far, because a process that has just started is still small.
        self._typical = 0.0
        #: What is missing, in words, after `room` has returned less than was asked for.
        self.missing = ""

    def room(self, found: Room | None, used: list[int], processes: int, wanted: int) -> int:
        """Return how many of the wanted processes fit.

        Args:
            found: The memory that is left; None if unknown, then all fit.
            used: The bytes that some of the present processes have now.
            processes: The number of present processes.
            wanted: The number of new processes.
        """
        self.missing = ""
        if found is None or not used:
            return wanted
        self._typical = max(self._typical, sum(used) / len(used))
        owed = sum(max(0.0, self._typical - size) for size in used) * processes / len(used)
        fit = max(0, int((found.size - owed) / max(self._typical, 1.0)))
        if fit < wanted:
            self.missing = (
                f"{found.place} has {max(0.0, found.size) / MIB:.0f} MiB left, "
                f"and a process needs {self._typical / MIB:.0f} MiB"
            )
        return min(fit, wanted)
