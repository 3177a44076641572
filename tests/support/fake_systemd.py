"""A fake systemd for the reconciler's runner: units are data, and processes start as the test says."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import (
    Completed,
    template_of,
)

# What `systemctl show` prints about a unit that does not exist.
ABSENT = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead", "Job": "0"}
State = dict[str, str]


@dataclass
class FakeUnit:
    """One unit.

    Attributes:
        state: Its properties, as `systemctl show` prints them.
        course: The states of a start, one step each time that it is looked at; the last one stays.
        loaded: Its files as they were when systemd read them.
    """

    state: State
    course: Sequence[State] = (
        {"ActiveState": "active", "SubState": "running", "ExecMainStatus": "0"},
    )
    loaded: dict[str, str] = field(default_factory=dict)
    _steps: Iterator[State] = field(default_factory=lambda: iter(()))

    def start(self) -> None:
        self._steps = iter(self.course)

    def look(self) -> State:
        self.state.update(next(self._steps, {}))
        return self.state


class FakeSystemd:
    """Answers commands, keeps them in `commands`, and has a clock that only sleeping moves.

    Attributes:
        directory: The directory of unit files, if there is one.
        refused: By beginning, the commands that fail, with their output.
        before: Called with each command before it is carried out.
        on_start: Called for each unit that starts, like a service's ExecStartPre=.
        children: Processes that each process has started.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.units: dict[str, FakeUnit] = {}
        self.commands: list[str] = []
        self.refused: dict[str, str] = {}
        self.before: Callable[[str], None] = lambda command: None
        self.on_start: Callable[[str, State], None] = lambda name, state: None
        self.children: dict[int, frozenset[int]] = {}
        self.now = 1000.0
        self._invocations = count(1)

    def add(self, name: str, *, running: bool = False, enabled: bool = True, **state: str) -> None:
        """Add a unit to the host; `state` has further properties."""
        base = {
            "LoadState": "loaded",
            "ActiveState": "active" if running else "inactive",
            "SubState": "running" if running else "dead",
            "UnitFileState": "enabled" if enabled else "disabled",
            "MainPID": "100" if running else "0",
            "InvocationID": f"old-{name}" if running else "",
            "Job": "0",
            "NRestarts": "0",
        }
        self.units[name] = FakeUnit({**base, **state})
        self._load(name)

    def _files(self, name: str) -> dict[str, str]:
        """Return the texts of a unit's file and its drop-ins on disk."""
        if self.directory is None:
            return {}
        names = dict.fromkeys((name, template_of(name)))
        fragments = [path for n in names if (path := self.directory / n).is_file()]
        drop_ins = [path for n in names for path in sorted(self.directory.glob(f"{n}.d/*.conf"))]
        return {str(path): path.read_text() for path in [*fragments[:1], *drop_ins]}

    def _load(self, name: str) -> None:
        unit = self.units[name]
        unit.loaded = self._files(name)
        drop_ins = [path for path in unit.loaded if path.endswith(".conf")]
        unit.state["DropInPaths"] = " ".join(drop_ins)
        unit.state["FragmentPath"] = "".join(path for path in unit.loaded if path not in drop_ins)

    def _look(self, name: str) -> State:
        if name not in self.units:
            return ABSENT | ({"LoadState": "loaded"} if self._files(name) else {})
        unit = self.units[name]
        stale = unit.loaded != self._files(name)
        return {**unit.look(), "NeedDaemonReload": "yes" if stale else "no"}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now

    def crash(self, name: str) -> None:
        """Let a process die; systemd restarts it."""
        self._act("start", name)
        self.units[name].state["ActiveState"] = "active"

    def did(self, *verbs: str) -> list[str]:
        """Return the commands that change something, or those with one of these verbs."""
        asking = ("systemctl show", "systemctl list", "journalctl", "systemd-analyze")
        found = [command for command in self.commands if not command.startswith(asking)]
        return [c for c in found if not verbs or any(f" {verb} " in f" {c} " for verb in verbs)]

    def __call__(self, command: Sequence[str]) -> Completed:
        text = " ".join(command)
        self.commands.append(text)
        self.before(text)
        for beginning, answer in self.refused.items():
            if text.startswith(beginning):
                return Completed(1, answer)
        words = [word for word in command if not word.startswith("--")]
        if words[0] == "journalctl":
            return Completed(0, f"the journal of {words[-1]}\nKeyError: 'SECRET_KEY'\n")
        if words[0] == "systemctl":
            return Completed(0, self._systemctl(words[1], words[2:]))
        return Completed(0, "")

    def _systemctl(self, verb: str, names: Sequence[str]) -> str:
        if verb == "show":
            blocks = map(self._look, names)
            return "\n\n".join("\n".join(f"{k}={v}" for k, v in block.items()) for block in blocks)
        if verb in ("list-units", "list-unit-files"):
            found = [n for n in self.units if any(fnmatch.fnmatchcase(n, p) for p in names)]
            return "".join(f"{name} loaded active running Something\n" for name in found)
        if verb == "daemon-reload":
            for name in self.units:
                self._load(name)
        for name in names:
            if name not in self.units:
                # As after a daemon-reload: systemd knows what is on disk.
                self.add(name, enabled=False)
            self._act(verb, name)
        return ""

    def _act(self, verb: str, name: str) -> None:
        unit = self.units[name]
        if verb in ("start", "restart"):
            # The exit status stays that of the previous process until the next one is spawned.
            unit.state.update(
                InvocationID=f"new-{next(self._invocations)}",
                ActiveState="activating",
                SubState="start-pre",
                MainPID="200",
                NRestarts="0",
            )
            self.on_start(name, self._look(name))
            unit.start()
        elif verb == "stop":
            # A failed unit stays failed.
            failed = unit.state["ActiveState"] == "failed"
            state = "failed" if failed else "inactive"
            unit.state.update(ActiveState=state, SubState="dead", MainPID="0", InvocationID="")
        elif verb == "reset-failed":
            unit.state["ActiveState"] = "inactive"
        elif verb in ("enable", "disable"):
            unit.state["UnitFileState"] = f"{verb}d"
