"""Bring one host to the state that a role wants: files first, then the units that they concern.

Runs on the host, inside the `settle` module, as root. Files are compared whole and replaced atomically; where
a daemon refuses its new configuration, all files of the call go back to what they were. Restarts follow need:
what a process was started with is noted in a mark, a root-only file beside the state of the host, and a unit is
restarted where its mark differs from what lies on disk now. A run that ends between writing and restarting is
therefore finished by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import glob
import grp
import hashlib
import json
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import systemd
from .wanted import File, Link, Unit, UnitAction, Wanted

MARKS = Path("/var/lib/celery-fleet/marks")
LOCK = Path("/run/celery-fleet-settle.lock")
UNIT_DIRECTORY = "/etc/systemd/system/"
_GONE = "(absent)"
# Seconds that a unit may take to stop beyond what systemd itself allows it.
_STOP_SLACK = 15.0
# A unit with Restart=always never gives up: after this many restarts of its own it is called failed.
_RESTARTS_TOLERATED = 2
# The launcher's and the loader's exit status for a configuration that no retry can mend (sysexits.h, EX_CONFIG).
_EX_CONFIG = 78


class SettleError(Exception):
    """The host could not be brought to the wanted state; the message is for the person who runs the play."""


class _SlowStartError(SettleError):
    """A unit that has started anew but is not ready yet."""


@dataclass(frozen=True)
class Pending:
    """One unit that has to be acted on, and why."""

    unit: str
    action: UnitAction
    why: str


@dataclass
class Report:
    """What was done, or in check mode would be."""

    changed: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    done: list[Pending] = field(default_factory=list)


@dataclass
class _Undo:
    path: Path
    before: bytes | None
    mode: int = 0
    uid: int = 0
    gid: int = 0


def _ids(owner: str, group: str, check: bool) -> tuple[int, int]:
    """Numeric owner and group; in check mode -1 for a user that is yet to come."""
    try:
        uid = pwd.getpwnam(owner).pw_uid
        gid = grp.getgrnam(group).gr_gid
    except KeyError as missing:
        if check:
            return -1, -1
        raise SettleError(f"no such user or group on this host: {missing.args[0]}") from None
    return uid, gid


def _replace(path: Path, content: bytes, mode: int, uid: int, gid: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def digest(path: str) -> str:
    """SHA-256 of a file's content, or a word for its absence."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return _GONE


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return _GONE


def inputs(unit: Unit, state: systemd.UnitState) -> dict[str, str]:
    """What a unit's process depends on, each with a hash or the value that says whether it differs."""
    files = {path for pattern in unit.files for path in (glob.glob(pattern) or [pattern])}
    found = {path: digest(path) for path in (*state.sources, *files)}
    found.update({path: _target(path) for path in unit.links})
    if unit.values is not None:
        text = json.dumps(unit.values, sort_keys=True)
        found["values"] = hashlib.sha256(text.encode()).hexdigest()
    return found


def difference(noted: dict[str, str] | None, wanted: dict[str, str]) -> str:
    """Why a process must be restarted, in words; empty where it need not."""
    if noted is None:
        return "it was never started by this inventory"
    names = sorted(
        name for name in noted.keys() | wanted.keys() if noted.get(name) != wanted.get(name)
    )
    if not names:
        return ""
    return "changed: " + ", ".join(names)


class Settler:
    """Settles one host; see the module's text."""

    def __init__(
        self,
        wanted: Wanted,
        *,
        check: bool = False,
        force: bool = False,
        runner: systemd.Runner = systemd.run,
        marks: Path = MARKS,
        unit_directory: str = UNIT_DIRECTORY,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = wanted
        self.check = check
        self.force = force
        self.run = runner
        self.marks = marks
        self.unit_directory = unit_directory
        self.sleep = sleep
        self.clock = clock
        self.report = Report()
        self._undo: list[_Undo] = []

    # -- files ---------------------------------------------------------------------------------------------

    def settle_files(self) -> None:
        """Users, directories, files and links as wanted; all files or, where a check refuses them, none."""
        self._settle_sysusers()
        for directory in self.wanted.directories:
            self._settle_directory(directory.path, directory.mode, directory.owner, directory.group)
        try:
            for item in self.wanted.files:
                self._settle_file(item)
            self._run_checks()
        except BaseException:
            self._take_back()
            raise
        for link in self.wanted.links:
            self._settle_link(link)

    def _changed(self, path: str, before: str, after: str) -> None:
        self.report.changed.append(path)
        self.report.diff.append(
            {"before_header": path, "after_header": path, "before": before, "after": after}
        )

    def _settle_sysusers(self) -> None:
        """A user is declared once in sysusers.d and made by systemd, which knows of free IDs and of what exists."""
        for item in self.wanted.sysusers:
            # Debian ships no /etc/sysusers.d.
            if not self.check:
                os.makedirs(os.path.dirname(item.dest), mode=0o755, exist_ok=True)
            before = len(self.report.changed)
            self._settle_file(item)
            changed = len(self.report.changed) > before
            if (changed or not _users_exist(item.content)) and not self.check:
                done = self.run(["systemd-sysusers", item.dest])
                if done.returncode != 0:
                    raise SettleError(
                        f"systemd-sysusers refused {item.dest}: {done.output.strip()}"
                    )
        self._undo.clear()

    def _settle_directory(self, path: str, mode: int, owner: str, group: str) -> None:
        uid, gid = _ids(owner, group, self.check)
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            self._changed(path, "", f"directory {owner}:{group} {mode:04o}\n")
            if not self.check:
                os.makedirs(path, mode=0o755, exist_ok=True)
                os.chown(path, uid, gid)
                os.chmod(path, mode)
            return
        if not stat.S_ISDIR(now.st_mode):
            raise SettleError(f"{path} is not a directory; move it away and run again")
        if (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) != (uid, gid, mode) and uid >= 0:
            self._changed(
                path,
                f"directory {now.st_uid}:{now.st_gid} {stat.S_IMODE(now.st_mode):04o}\n",
                f"directory {uid}:{gid} {mode:04o}\n",
            )
            if not self.check:
                os.chown(path, uid, gid)
                os.chmod(path, mode)

    def _settle_file(self, item: File) -> None:
        path = Path(item.dest)
        uid, gid = _ids(item.owner, item.group, self.check)
        wanted = item.content.encode()
        before: bytes | None = None
        now: os.stat_result | None = None
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            if not self.check and not path.parent.is_dir():
                raise SettleError(f"{path}: its directory does not exist") from None
        if now is not None:
            if not stat.S_ISREG(now.st_mode):
                raise SettleError(f"{path} is not a regular file; move it away and run again")
            before = path.read_bytes()
            if before == wanted and (
                uid < 0
                or (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (uid, gid, item.mode)
            ):
                return
        self._note_file(item, before, now, wanted)
        if self.check:
            return
        if now is None:
            self._undo.append(_Undo(path, None))
        else:
            self._undo.append(
                _Undo(path, before, stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid)
            )
        _replace(path, wanted, item.mode, uid, gid)

    def _note_file(
        self, item: File, before: bytes | None, now: os.stat_result | None, wanted: bytes
    ) -> None:
        if before == wanted and now is not None:
            self._changed(
                item.dest,
                f"{now.st_uid}:{now.st_gid} {stat.S_IMODE(now.st_mode):04o}\n",
                f"{item.owner}:{item.group} {item.mode:04o}\n",
            )
        elif not item.diff:
            self._changed(
                item.dest, "" if before is None else "<content>\n", "<content, changed>\n"
            )
        elif item.secret:
            self._changed(item.dest, "" if before is None else "<secret>\n", "<secret, changed>\n")
        else:
            self._changed(item.dest, (before or b"").decode(errors="replace"), item.content)

    def _run_checks(self) -> None:
        if self.check:
            return
        changed = set(self.report.changed)
        for check in self.wanted.checks:
            concerned = [
                path for path in changed if any(fnmatch.fnmatch(path, p) for p in check.files)
            ]
            if not concerned:
                continue
            done = self.run(check.command)
            if done.returncode != 0:
                raise SettleError(
                    f"{' '.join(check.command)} refused the new configuration, so all files of this call are as "
                    f"they were: {done.output.strip()}"
                )

    def _take_back(self) -> None:
        for undo in reversed(self._undo):
            if undo.before is None:
                undo.path.unlink(missing_ok=True)
            else:
                _replace(undo.path, undo.before, undo.mode, undo.uid, undo.gid)
        self._undo.clear()

    def _settle_link(self, link: Link) -> None:
        now = _target(link.path)
        if now == link.target:
            return
        if now == _GONE and os.path.lexists(link.path):
            raise SettleError(f"{link.path} is not a link; move it away and run again")
        self._changed(link.path, "" if now == _GONE else f"-> {now}\n", f"-> {link.target}\n")
        if self.check:
            return
        with tempfile.TemporaryDirectory(
            dir=os.path.dirname(link.path), prefix=".link."
        ) as scratch:
            fresh = os.path.join(scratch, "link")
            os.symlink(link.target, fresh)
            os.replace(fresh, link.path)

    # -- units ---------------------------------------------------------------------------------------------

    def plan_units(self) -> None:
        """Find out which units have to be acted on; units are reloaded from disk and enabled at once."""
        names = [unit.name for unit in self.wanted.units]
        states = self._show(names)
        touched = any(path.startswith(self.unit_directory) for path in self.report.changed)
        if not self.check and (touched or any(state.need_reload for state in states.values())):
            self._command(["systemctl", "daemon-reload"])
            states = self._show(names)
        enable = [u.name for u in self.wanted.units if u.enabled and not _enabled(states[u.name])]
        if enable:
            self.report.changed.extend(f"enable {name}" for name in enable)
            if not self.check:
                self._command(["systemctl", "enable", "--quiet", *enable])
                states = self._show(names)
        for unit in self.wanted.units:
            pending = self._needed(unit, states[unit.name])
            if pending:
                self.report.pending.append(pending)
        for name in self._surplus_units():
            self.report.pending.append(Pending(name, "stop", "it is not in the inventory"))
        if self._surplus_files() and not any(p.action == "stop" for p in self.report.pending):
            self.report.pending.append(Pending("", "stop", "files that are not in the inventory"))
        self.report.diff.extend(
            {"prepared": f"{item.action} {item.unit or 'nothing'}: {item.why}\n"}
            for item in self.report.pending
        )

    def _needed(self, unit: Unit, state: systemd.UnitState) -> Pending | None:
        if not unit.started:
            if state.active in ("inactive", "failed"):
                return None
            return Pending(unit.name, "stop", "it shall not run")
        if state.active in ("inactive", "failed"):
            return Pending(unit.name, "start", f"it is {state.active}")
        if self.force:
            return Pending(unit.name, "restart", "it was asked for")
        if unit.on_change == "nothing":
            return None
        why = difference(self._noted(unit.name), inputs(unit, state))
        return Pending(unit.name, unit.on_change, why) if why else None

    def apply(self) -> None:
        """Act on what `plan_units` found: what has to go first, then unit after unit, as the inventory has them."""
        if self.check:
            return
        units = {unit.name: unit for unit in self.wanted.units}
        # From here on a process may be started anew with what lies on disk, by a crash for one, whatever becomes of
        # this run. So what was noted of it holds no longer, not even where the change is taken back.
        for pending in self.report.pending:
            if pending.unit:
                self._mark(pending.unit).unlink(missing_ok=True)
        for pending in self.report.pending:
            if pending.unit not in units and pending.unit:
                self._remove(pending.unit)
                self.report.done.append(pending)
        self._remove_files()
        for pending in self.report.pending:
            if pending.unit in units:
                unit = units[pending.unit]
                if pending.action == "stop":
                    self._command(["systemctl", "stop", unit.name])
                else:
                    self._bring_up(unit, pending.action)
                self.report.done.append(pending)

    def _bring_up(self, unit: Unit, action: UnitAction) -> None:
        before = self._show([unit.name])[unit.name]
        # Taken before the start: a change that lands while the process starts must not be noted as known to it.
        seen = inputs(unit, before)
        if action == "reload":
            self._command(["systemctl", "reload", unit.name], unit)
        else:
            # Without waiting: should this run be killed, systemd still ends what was begun.
            self._command(["systemctl", action, "--no-block", unit.name], unit)
            try:
                self._wait(unit, before)
            except _SlowStartError:
                # It runs with what lies on disk and may yet get ready: the next run must not start it once more.
                self._note(unit.name, seen)
                raise
        self._note(unit.name, seen)

    def _wait(self, unit: Unit, before: systemd.UnitState) -> None:
        """Until the unit runs anew. The time that the old process takes to drain is bounded by systemd."""
        deadline = self.clock() + unit.timeout
        while True:
            state = self._show([unit.name])[unit.name]
            fresh = state.invocation != before.invocation or not before.invocation
            if fresh and state.active == "active":
                return
            if not fresh and (state.job or state.active == "deactivating"):
                deadline = self.clock() + unit.timeout + _STOP_SLACK
            given_up = state.restarts - (before.restarts if not fresh else 0) > _RESTARTS_TOLERATED
            hopeless = fresh and state.active == "failed"
            misconfigured = fresh and state.exit_status == _EX_CONFIG
            if given_up or hopeless or misconfigured:
                raise self._failure(unit, state, "does not start")
            if self.clock() > deadline:
                failure = self._failure(unit, state, f"was not active within {unit.timeout:.0f} s")
                raise _SlowStartError(str(failure)) if fresh and not state.restarts else failure
            self.sleep(0.2)

    def _failure(self, unit: Unit, state: systemd.UnitState, what: str) -> SettleError:
        lines = [
            f"{unit.name} {what}: it is {state.described}.",
            "The last lines of its journal:",
            *(f"  {line}" for line in systemd.journal(unit.name, runner=self.run).splitlines()),
            f"Next, on this host: journalctl -u {unit.name} -n 100",
        ]
        if unit.hint:
            lines.append(unit.hint)
        return SettleError("\n".join(lines))

    def _surplus_units(self) -> list[str]:
        wanted = {unit.name for unit in self.wanted.units}
        names = [n for n in systemd.listed(self.wanted.owned.units, self.run) if n not in wanted]
        # A name that another unit only mentions (After=) is listed as well; there is nothing to stop.
        return [name for name, state in self._show(names).items() if state.exists]

    def _surplus_files(self) -> list[str]:
        wanted = {item.dest for item in self.wanted.files} | {
            link.path for link in self.wanted.links
        }
        found = {path for pattern in self.wanted.owned.files for path in glob.glob(pattern)}
        return sorted(found - wanted)

    def _remove(self, name: str) -> None:
        # Stopping drains; it lasts as long as the unit's own TimeoutStopSec allows.
        self._command(["systemctl", "stop", name])
        self._command(["systemctl", "disable", "--quiet", name])
        self.report.changed.append(f"remove {name}")

    def _remove_files(self) -> None:
        surplus = self._surplus_files()
        for path in surplus:
            os.unlink(path)
            self.report.changed.append(path)
            parent = os.path.dirname(path)
            # A unit's drop-in directory goes with our last file in it; with a user's own drop-in it stays.
            if parent.endswith(".d") and not os.listdir(parent):
                os.rmdir(parent)
        if any(path.startswith(self.unit_directory) for path in surplus):
            self._command(["systemctl", "daemon-reload"])

    # -- marks and small helpers ---------------------------------------------------------------------------

    def _mark(self, name: str) -> Path:
        return self.marks / f"{name}.json"

    def _noted(self, name: str) -> dict[str, str] | None:
        try:
            noted = json.loads(self._mark(name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return noted if isinstance(noted, dict) else None

    def _note(self, name: str, seen: dict[str, str]) -> None:
        self.marks.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(seen, sort_keys=True, indent=1) + "\n"
        _replace(self._mark(name), text.encode(), 0o600, os.getuid(), os.getgid())

    def _show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        return systemd.show(names, self.run)

    def _command(self, command: Sequence[str], unit: Unit | None = None) -> None:
        done = self.run(command)
        if done.returncode == 0:
            return
        if unit is not None:
            state = self._show([unit.name])[unit.name]
            raise self._failure(
                unit, state, f"refused `{' '.join(command)}` ({done.output.strip()})"
            )
        raise SettleError(f"`{' '.join(command)}` failed: {done.output.strip()}")


def _users_exist(sysusers: str) -> bool:
    """Whether all users and groups of a sysusers.d file are there, memberships included."""
    for line in sysusers.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        try:
            if words[0] == "u":
                pwd.getpwnam(words[1])
            elif words[0] == "g":
                grp.getgrnam(words[1])
            elif words[0] == "m" and words[1] not in grp.getgrnam(words[2]).gr_mem:
                return False
        except KeyError:
            return False
    return True


def _enabled(state: systemd.UnitState) -> bool:
    # "static" and "indirect" units have no [Install] of their own: there is nothing to enable.
    return state.file_state in (
        "enabled",
        "enabled-runtime",
        "static",
        "indirect",
        "alias",
        "generated",
    )


@contextlib.contextmanager
def alone(path: Path = LOCK) -> Iterator[None]:
    """Hold the host's lock, so that two runs at once settle one after the other."""
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def settle(wanted: Wanted, *, check: bool, force: bool = False) -> Report:
    """Bring the host to `wanted`.

    Args:
        wanted: The state.
        check: Change nothing.
        force: Restart the units whether or not anything differs.

    Raises:
        SettleError: With a message for the person who runs the play.
    """
    with alone() if not check else contextlib.nullcontext():
        settler = Settler(wanted, check=check, force=force)
        settler.settle_files()
        settler.plan_units()
        settler.apply()
    return settler.report
