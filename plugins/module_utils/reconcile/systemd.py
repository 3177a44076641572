"""Queries and controls systemd on the host that a module runs on, as root, by `systemctl`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..redact import hide_logins
from ..text import shortened
from .fingerprint import Disk

_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "MainPID",
    "NRestarts",
    "StatusText",
    "Result",
    "ExecMainStatus",
    "FragmentPath",
    "DropInPaths",
    "InvocationID",
    "Job",
)


# A unit with Restart=always never gives up: after this many automatic restarts it counts as failed.
RESTARTS_TOLERATED = 2
# Exit status of launcher and loader for a configuration error that no retry can fix (sysexits.h, EX_CONFIG).
_EX_CONFIG = 78


def hopeless(active: str, sub: str, exit_status: int) -> bool:
    """Return whether a starting unit will never come up; the arguments are systemd's properties."""
    # The exit status is that of the previous process until systemd starts the next one.
    return active == "failed" or (sub.startswith("auto-restart") and exit_status == _EX_CONFIG)


@dataclass(frozen=True)
class Completed:
    """The result of a command; `output` is stdout and stderr together."""

    returncode: int
    output: str


Runner = Callable[[Sequence[str]], Completed]


def run(command: Sequence[str]) -> Completed:
    """Run a command without input and wait for its end; the locale is C.UTF-8."""
    done = subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        check=False,
    )
    # With `text=True`, the carriage return in a status of the application would end its line.
    return Completed(done.returncode, done.stdout.decode(errors="replace"))


@dataclass(frozen=True)
class UnitState:
    """The state of one unit in `systemctl show`; the names are systemd's in lower case."""

    name: str
    load: str
    active: str
    sub: str
    file_state: str
    need_reload: bool
    main_pid: int
    restarts: int
    status: str
    result: str
    exit_status: int
    sources: tuple[str, ...]
    invocation: str
    job: bool

    @property
    def fragment(self) -> str:
        """Return the path of the unit's own file; empty if it has none."""
        # The others are drop-ins.
        return next((path for path in self.sources if not path.endswith(".conf")), "")

    @property
    def exists(self) -> bool:
        """Return whether systemd finds the unit on disk or has it loaded."""
        return self.load not in ("not-found", "")

    @property
    def described(self) -> str:
        """Return one line with state, result and the daemon's own status text."""
        text = f"{self.active} ({self.sub})"
        if self.result not in ("success", ""):
            text += f", result {self.result}"
            if self.exit_status:
                text += f", exit status {self.exit_status}"
        if self.restarts:
            text += f", restarted {self.restarts} times"
        # A status text outlives the process that wrote it, so it is only valid while one runs.
        if self.status and self.main_pid:
            text += f", says “{shortened(self.status, 200)}”"
        return text


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def parse_show(name: str, block: str) -> UnitState:
    """Parse one block of `systemctl show` output."""
    values: dict[str, str] = {}
    # The status is the application's, and may contain other characters at which `splitlines` splits.
    for line in block.split("\n"):
        key, _, value = line.partition("=")
        values[key] = value
    sources = [values.get("FragmentPath", ""), *values.get("DropInPaths", "").split()]
    return UnitState(
        name=name,
        load=values.get("LoadState", ""),
        active=values.get("ActiveState", "inactive"),
        sub=values.get("SubState", ""),
        file_state=values.get("UnitFileState", ""),
        need_reload=values.get("NeedDaemonReload") == "yes",
        main_pid=_number(values.get("MainPID", "")),
        restarts=_number(values.get("NRestarts", "")),
        status=values.get("StatusText", ""),
        result=values.get("Result", ""),
        exit_status=_number(values.get("ExecMainStatus", "")),
        sources=tuple(path for path in sources if path),
        invocation=values.get("InvocationID", ""),
        job=_number(values.get("Job", "")) > 0,
    )


def show(names: Sequence[str], runner: Runner = run) -> dict[str, UnitState]:
    """Return the states of units, with one call of systemctl.

    Raises:
        RuntimeError: systemd does not answer; the message contains its output.
    """
    if not names:
        return {}
    done = runner(
        ["systemctl", "show", "--no-pager", f"--property={','.join(_PROPERTIES)}", *names]
    )
    if done.returncode != 0:
        raise RuntimeError(f"systemctl show failed: {done.output.strip()}")
    blocks = done.output.strip("\n").split("\n\n")
    if len(blocks) != len(names):
        raise RuntimeError(f"systemctl show answered for {len(blocks)} of {len(names)} units")
    return {name: parse_show(name, block) for name, block in zip(names, blocks, strict=True)}


def template_of(unit: str) -> str:
    """Return the name of the template that an instance is made from; the unit's own name if it is no instance."""
    prefix, at, rest = unit.partition("@")
    return f"{prefix}@.{rest.rpartition('.')[2]}" if at else unit


# Where systemd looks for units after our directory, by priority.
_DIRECTORIES = (
    "/run/systemd/system/",
    "/usr/local/lib/systemd/system/",
    "/usr/lib/systemd/system/",
    "/lib/systemd/system/",
)


def fragments(unit: str, unit_directory: str) -> list[str]:
    """Return the files on disk that could define a unit, by priority."""
    return [
        path
        for name in dict.fromkeys((unit, template_of(unit)))
        for directory in (unit_directory, *_DIRECTORIES)
        if os.path.exists(path := f"{directory}{name}")
    ]


def sources_to_be(state: UnitState, disk: Disk, unit_directory: str) -> tuple[str, ...]:
    """Return a unit's file and drop-ins as systemd will see them once `disk` is real and loaded.

    Drop-ins for a whole type of units are taken from what systemd has loaded.

    Args:
        state: What systemd has loaded now.
        disk: The disk as it will be.
        unit_directory: Directory of our unit files, ending in a slash.
    """
    names = tuple(dict.fromkeys((state.name, template_of(state.name))))
    places = [f"{place}{name}" for name in names for place in (unit_directory, *_DIRECTORIES)]
    still = [path for path in state.sources if disk.match(path)]
    loaded = [path for path in still if path.endswith(".conf")]
    units = [*places, *(path for path in still if path not in loaded)]
    fragment = next((path for path in units if disk.match(path)), "")
    found = [path for place in places for path in disk.match(f"{place}.d/*.conf")]
    # A drop-in of the same name in an earlier directory hides later ones.
    drop_ins: dict[str, str] = {}
    for path in [*found, *loaded]:
        drop_ins.setdefault(os.path.basename(path), path)
    return tuple(
        path for path in (fragment, *(drop_ins[name] for name in sorted(drop_ins))) if path
    )


def listed(patterns: Sequence[str], runner: Runner = run) -> list[str]:
    """Return names of units that match a glob pattern and are loaded or installed on disk."""
    if not patterns:
        return []
    names: set[str] = set()
    for verb in ("list-units", "list-unit-files"):
        everything = ["--all"] if verb == "list-units" else []
        done = runner(
            ["systemctl", verb, "--no-legend", "--plain", "--no-pager", *everything, *patterns]
        )
        for line in done.output.splitlines():
            name = line.split()[0] if line.split() else ""
            # `foo@.service` is a template, which can't run.
            if "." in name and "@." not in name:
                names.add(name)
    return sorted(names)


def children(pid: int) -> frozenset[int]:
    """Return the child processes of a process; empty if they can't be read."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
            return frozenset(int(word) for word in stream.read().split())
    except OSError:
        return frozenset()


def journal(unit: str, lines: int = 10, runner: Runner = run) -> str:
    """Return the last lines of a unit's journal, newest last, without logins in URLs."""
    done = runner(
        ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", "--unit", unit]
    )
    # Lines are not cut here, because later redaction would not recognize half a secret.
    return hide_logins(done.output.strip())
