"""The table of the options of a unit, which workers, the web process, beat and Flower share, and its drop-in.

The table is data on the control node, as in `worker_options.py`; `Option` in `option.py` describes the fields of a row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from .option import Option, directives

_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?[KMGT]?|infinity|(100|[1-9]?[0-9])(\.[0-9]+)?%")
_CPU = re.compile(r"[1-9][0-9]*(\.[0-9]+)?%")
_TASKS = re.compile(r"[1-9][0-9]*|infinity|(100|[1-9]?[0-9])%")
_MOUNTS: Final = "requires_mounts_for"
# It runs as root outside of the sandbox, so without the process's environment.
_SYSTEMD_RUN: Final = "+/usr/bin/env -i /usr/bin/systemd-run --quiet --collect"

# fmt: off
UNIT: Final[tuple[Option, ...]] = (
    Option("memory_max", "str", "systemd's C(MemoryMax) with its unit, such as C(512M); 32M or more.",
           syntax=_MEMORY, like="512M, 2G, 40% or infinity", directive="MemoryMax"),
    Option("memory_high", "str", "systemd's C(MemoryHigh) with its unit; not above C(memory_max).",
           syntax=_MEMORY, like="512M, 2G, 40% or infinity", directive="MemoryHigh"),
    Option("cpu_quota", "str", "systemd's C(CPUQuota).",
           syntax=_CPU, like="50% for half a core, or 200% for two", directive="CPUQuota"),
    Option("tasks_max", "str", "systemd's C(TasksMax).", syntax=_TASKS, like="64 or infinity", directive="TasksMax"),
    Option("nice", "int",
           "systemd's C(Nice) for all processes of the unit. The higher it is, the longer they wait while others "
           "want the processor.",
           lowest=-20, highest=19, directive="Nice"),
    Option("oom_score_adjust", "int",
           "systemd's C(OOMScoreAdjust) for all processes of the unit. The higher it is, the more the kernel "
           "prefers to kill them when memory runs out; with C(-1000) it never does.",
           lowest=-1000, highest=1000, directive="OOMScoreAdjust"),
    Option("environment", "dict", "Environment of this unit only."),
    Option("memory_deny_write_execute", "bool",
           "systemd's C(MemoryDenyWriteExecute). Applications with a JIT compiler need C(false).",
           default=True, directive="MemoryDenyWriteExecute"),
    Option("proc_subset_pid", "bool",
           "Whether it only sees processes in C(/proc). What reads C(/proc/meminfo), such as psutil, needs C(false).",
           default=True, directive="ProcSubset", words=("all", "pid")),
    Option("read_write_paths", "list",
           "Directories that it may write to besides its own. Each must exist on the host, be in "
           "C(celery_app_directories), or begin with C(-).",
           elements="path", directive="ReadWritePaths"),
    Option("umask", "str", "systemd's C(UMask): permissions that new files don't get. Without it only the unit's own "
           "user can read them (C(0077)).",
           syntax=re.compile("0[0-7]{3}"), like='"0027"', directive="UMask"),
    Option(_MOUNTS, "list",
           "Paths on filesystems that must be mounted while it runs, as with systemd's C(RequiresMountsFor). If one "
           "can't be mounted, systemd tries again every two seconds.",
           elements="path"),
    Option("unit_lines", "dict",
           "Other directives of the unit's section C([Service]), such as C(LimitNOFILE), name to value. A list of "
           "values repeats the name.\n"
           "They override the fleet's sandbox. What the fleet needs itself, such as C(User), is refused."),
)
# fmt: on

# Directives that unit_lines must not set, because the fleet needs its own values to start, stop and compare processes.
RESERVED: Final = re.compile(
    r"Exec.*|Type|NotifyAccess|User|Group|DynamicUser|Slice|(Unset|Pass)?Environment(File)?|(Load|Set|Import)Credential.*"
    r"|Restart.*|Kill(Mode|Signal)|FinalKillSignal|SendSIGKILL|Timeout.*|Watchdog.*|OOMPolicy|Sockets|PIDFile|BusName"
    r"|(Runtime|State|Logs|Cache|Configuration)Directory.*|Root.*|FileDescriptorStore.*|RemainAfterExit|Delegate.*"
)


def variable(name: str, process: str) -> Option:
    """Return the variable with the options of the only unit that a role starts."""
    return Option(name, "dict", f"Options of the unit of {process}.", default={}, options=UNIT)


def unit_lines(table: Iterable[Option], options: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the lines of a unit's drop-in for its options, each with its `option`, `line` and `section`."""
    found = directives(table, options) + _mounts(options.get(_MOUNTS) or [])
    for name, given in (options.get("unit_lines") or {}).items():
        for value in given if isinstance(given, (list, tuple)) else [given]:
            text = ("no", "yes")[value] if isinstance(value, bool) else str(value)
            found.append({"option": "unit_lines", "line": f"{name}={text}", "section": "Service"})
    return found


def _mounts(paths: Iterable[str]) -> list[dict[str, str]]:
    """Return the lines with which a process runs only while the filesystems of these paths are mounted.

    With RequiresMountsFor= in its own unit, a mount that fails once at boot would leave the process down for good:
    Restart= has no effect on a unit that was not started. So a command of the unit asks systemd for the mounts, for
    another unit, and fails without them. The dependencies stop the process before a mount.
    """
    plain = [os.path.normpath(path) for path in paths]
    places = {place for path in plain for place in (path, *map(str, PurePosixPath(path).parents))}
    units = " ".join(_mount_unit(place) for place in sorted(places) if place.strip("/"))
    if not units:
        return []
    wanted = _quoted("--property=RequiresMountsFor=" + " ".join(map(_quoted, plain)))
    command = f"{_SYSTEMD_RUN} {wanted.replace('%', '%%').replace('$', '$$')} /usr/bin/true"
    lines = {
        f"ExecStartPre={command}": "Service",
        f"After={units}": "Unit",
        f"PartOf={units}": "Unit",
    }
    return [
        {"option": _MOUNTS, "line": line, "section": section} for line, section in lines.items()
    ]


def _quoted(text: str) -> str:
    """Return a text as one word for systemd."""
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'


def _mount_unit(place: str) -> str:
    """Return the name of the unit of a mount, as `systemd-escape --path --suffix=mount` does."""
    escaped = re.sub(
        r"[^A-Za-z0-9:_./]|^\.",
        lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()),
        place.strip("/"),
    )
    return f"{escaped.replace('/', '-')}.mount"


def drop_in(unit: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the desired state of the drop-in of a unit that exists once on a host; without options it is removed.

    Args:
        unit: Full name of the unit.
        options: Its options. Defaults are already in the unit.
    """
    directory = f"/etc/systemd/system/{unit}.d"
    path = f"{directory}/10-fleet.conf"
    owned = {"owned": {"files": [path]}}
    lines = unit_lines([option for option in UNIT if option.name in options], options)
    if not lines:
        return owned
    file = {"dest": path, "src": "systemd/options.conf.j2", "vars": {"directives": lines}}
    return {"directories": [{"path": directory}], "files": [file], **owned}
