"""Bring one host to the state that roles want: files first, then the units that they concern.

Runs on the host, inside the `settle` module, as root. Restarts follow need: what a process was started with was
written down at its start (see `fingerprint`), and a unit is restarted where that differs from what it would be
started with now. A run that ends between writing and restarting is therefore finished by the next one, and a change
that is taken back before the restart restarts nothing.

In check mode nothing is written. What would be written lies over the disk as an overlay, for all roles of the host
together, so that what one role changes and another one's unit reads is foretold as well.
"""

from __future__ import annotations

import fnmatch
import glob
import inspect
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    fingerprint,
    reasons,
    redis_live,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.daemon_checks import (
    Checks,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import Files, ids
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import (
    replace as replace_file,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import (
    TO_COME,
    Disk,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.lock import (
    alone,
    undisturbed,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.namespace import (
    Candidate,
    NamespaceError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Action,
    Change,
    Pending,
    Report,
    SettleError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.overlay import Overlay
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    RedisError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Unit, Wanted
from ansible_collections.celery_fleet.core.plugins.module_utils.release import note as releases
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count

# Seconds that a unit may take to stop beyond what systemd itself allows it.
_STOP_SLACK = 15.0

# Seconds within which a daemon that reloads must have new processes.
_RELOAD_PATIENCE = 5.0

# Stands in a record for what is just being brought to the running process.
_UNSURE = "(not known)"

Part = tuple[str, Wanted]


@dataclass(frozen=True)
class Options:
    """How units are acted on.

    Attributes:
        act: Whether to start, change and remove units at all; files, links and enabling happen either way.
        restart: Whether a unit that has to be restarted is; where not, it stays pending.
        finish: Leave users of running servers no more than their rules: whatever knew older ones has been restarted.
    """

    act: bool = True
    restart: bool = True
    finish: bool = False


@dataclass(frozen=True)
class Places:
    """Where the host keeps what belongs to settling."""

    units: str = "/etc/systemd/system/"
    recorder: str = "/usr/lib/celery-fleet/fingerprint.py"
    key: str = fingerprint.KEY
    lists: str = fingerprint.LISTS
    records: str = fingerprint.RECORDS


@dataclass(frozen=True)
class Host:
    """The host as `settle` reaches it; tests have one of their own."""

    run: systemd.Runner = systemd.run
    talk: redis_live.Talk = redis_live.talk
    places: Places = field(default_factory=Places)
    children: Callable[[int], frozenset[int]] = systemd.children
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class Settler:
    """Settles one host; see the module's text."""

    def __init__(
        self,
        parts: Sequence[Part],
        options: Options | None = None,
        *,
        check: bool = False,
        host: Host | None = None,
    ) -> None:
        self.parts = parts
        self.options = options or Options()
        self.check = check
        self.host = host or Host()
        self.places = self.host.places
        self.report = Report()
        self.disk: Disk = Disk()
        self._inputs: dict[str, dict[str, str]] = {}
        self._validated: Checks | None = None
        self._surplus: dict[str, str] = {}
        # Before anything is written.
        self._new = {unit.name for _, unit in self._units() if self._is_new(unit.name)}

    # -- files ---------------------------------------------------------------------------------------------

    def settle_files(self) -> None:
        """Users, directories, files and links as wanted; all files of a role or, where a check refuses them, none."""
        if self.check:
            self.disk = self._overlay()
            self._foretell_refused_releases()
        self._require_releases()
        for part, wanted in self.parts:
            files = Files(part, wanted, self.report, check=self.check, runner=self.host.run)
            files.settle(self._validate if not self.check else _nothing)
        self._settle_recorder()

    def _require_releases(self) -> None:
        """A link to a release that is not there would be the end of its processes with their next start."""
        coming = {
            os.path.normpath(release.path)
            for _, wanted in self.parts
            for release in wanted.releases
            if self.check
        }
        for link in (link for _, wanted in self.parts for link in wanted.links):
            path = releases.target_of(link.path, link.target)
            if path and path not in coming and not releases.built(path):
                raise SettleError(
                    f"release {os.path.basename(path)} is not built on this host, or for another Python than it has "
                    f"now, and {link.path} is to point to it: "
                    "run site.yml without --skip-tags or --tags that leave its build out.\nNo file was written."
                )

    def _foretell_refused_releases(self) -> None:
        """A release that is to be built is held against the inventory then, one that is there at once."""
        for release in (release for _, wanted in self.parts for release in wanted.releases):
            note = self.disk.read(f"{release.path}/{releases.NOTE}") if release.demands else None
            if note is None:
                continue
            name = os.path.basename(release.path)
            words = releases.refusals(name, note.decode(errors="replace"), release.demands or {})
            if words:
                raise SettleError("\n".join([*words, "Nothing was changed."]))
            self.report.warnings += releases.remarks(
                name, note.decode(errors="replace"), release.demands or {}
            )

    def _overlay(self) -> Overlay:
        overlay = Overlay()
        for _, wanted in self.parts:
            overlay.add(wanted)
        for _, wanted in self.parts:
            overlay.remove(self._surplus_files(wanted))
        return overlay

    def _checks(self, changed: Iterable[str]) -> Checks:
        return Checks(
            [check for _, wanted in self.parts for check in wanted.checks],
            changed,
            [unit.name for _, unit in self._units()],
            self.places.units,
            self.host.run,
        )

    def _validate(self) -> None:
        checks = self._checks(self.report.changed)
        for refusal in checks.refusals():
            raise SettleError(f"{refusal}\nAll files of this call are as they were.")
        self._validated = checks

    def _validate_inputs(self, taken_up: Iterable[str]) -> None:
        """What an earlier run wrote, and was killed before it could ask, is asked before a unit takes it up."""
        checks = self._checks(taken_up)
        if self._validated is not None:
            checks.leave_out(self._validated)
        for refusal in checks.refusals():
            raise SettleError(
                f"{refusal}\nIt lies there from before this run; no unit was started or restarted with it."
            )

    def _taken_up(self, states: Mapping[str, systemd.UnitState]) -> list[str]:
        """Files that units which are to start or to change read then; of their own sources those that are ours."""
        ours = {file.dest for _, wanted in self.parts for file in wanted.files}
        units = {unit.name: unit for _, unit in self._units()}
        paths: list[str] = []
        for item in self.report.pending:
            if item.unit in units:
                for pattern in units[item.unit].files:
                    paths += self.disk.match(pattern) if glob.has_magic(pattern) else [pattern]
                sources = systemd.sources_to_be(states[item.unit], self.disk, self.places.units)
                paths += [path for path in sources if path in ours]
        return paths

    def _foretell_refusal(self, taken_up: Iterable[str]) -> None:
        candidates: dict[str, Candidate] = {}
        for _, wanted in self.parts:
            for file in wanted.files:
                content = TO_COME if file.content is None else file.content.encode()
                owner = ids(file.owner, file.group, check=True)
                candidates[file.dest] = Candidate(content, file.mode, *owner)
        try:
            refusals = self._checks([*self.report.changed, *taken_up]).foretold(candidates)
        except NamespaceError as error:
            self.report.warnings.append(
                f"new configuration can't be tried before it is written on this host: {error}"
            )
            return
        for refusal in refusals:
            raise SettleError(f"{refusal}\nNothing was changed: mend it and plan again.")

    def _settle_recorder(self) -> None:
        """The recorder is this very package's `fingerprint`; units call it at their start."""
        part = next((name for name, wanted in self.parts if wanted.units), None)
        if part is None:
            return
        # Also where it comes from the archive that Ansible sends.
        source = inspect.getsource(fingerprint).encode()
        path = Path(self.places.recorder)
        if self.disk.read(str(path)) == source:
            return
        self.report.changes.append(Change(part, str(path)))
        if not self.check:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, source, 0o644, os.geteuid(), os.getegid())

    # -- units ---------------------------------------------------------------------------------------------

    def _units(self) -> list[tuple[str, Unit]]:
        """All wanted units, each once under the first part that has it."""
        found: dict[str, tuple[str, Unit]] = {}
        for part, wanted in self.parts:
            for unit in wanted.units:
                found.setdefault(unit.name, (part, unit))
        return list(found.values())

    def _is_new(self, name: str) -> bool:
        """Whether a unit was never on this host. An instance has no file that could tell, but a list of inputs."""
        if os.path.exists(f"{self.places.lists}/{name}.json"):
            return False
        return "@" in name or not systemd.fragments(name, self.places.units)

    def plan_units(self) -> None:
        """Find out which units have to be acted on; units are reloaded from disk and enabled at once."""
        units = self._units()
        names = [unit.name for _, unit in units]
        self._surplus = self._surplus_units(names)
        states = self._show([*names, *self._surplus])
        touched = any(path.startswith(self.places.units) for path in self.report.changed)
        stale = {name for name in names if states[name].need_reload}
        if (touched or stale) and not self.check:
            self._command(["systemctl", "daemon-reload"])
            states = self._show([*names, *self._surplus])
        self._enable(units, states)
        self._surplus = {n: part for n, part in self._surplus.items() if states[n].exists}
        key = self._key()
        for part, unit in units:
            self._settle_list(unit, key)
            if pending := self._needed(part, unit, states[unit.name], key):
                self.report.pending.append(pending)
        if not touched:
            self._note_reload(stale)
        taken_up = self._taken_up(states)
        if self.check:
            self._foretell_refusal(taken_up)
        else:
            self._validate_inputs(taken_up)
        self._plan_removal(states)
        if self.check:
            self._plan_rest(states)
        self.report.states = {
            name: _shown(state)
            for name, state in states.items()
            if name in names or name in self._surplus
        }
        self.report.diff.extend(
            {"prepared": f"{f'{item.action} {item.unit}'.rstrip()}: {item.text}\n"}
            for item in self.report.pending
        )

    def _note_reload(self, stale: Iterable[str]) -> None:
        """A reload from disk that is due is something to do, also where no unit has to be acted on for it."""
        idle = set(stale) - {item.unit for item in self.report.pending}
        parts = dict.fromkeys(part for part, unit in self._units() if unit.name in idle)
        self.report.changes.extend(Change(part, "daemon-reload") for part in parts)

    def _enable(
        self, units: Sequence[tuple[str, Unit]], states: Mapping[str, systemd.UnitState]
    ) -> None:
        found = [(part, u.name) for part, u in units if not _enabled(states[u.name])]
        self.report.changes.extend(Change(part, f"enable {name}") for part, name in found)
        if found and not self.check:
            self._command(["systemctl", "enable", "--quiet", *(name for _, name in found)])

    def _needed(
        self, part: str, unit: Unit, state: systemd.UnitState, key: bytes | None
    ) -> Pending | None:
        if unit.on_change != "nothing":
            sources = state.sources
            if self.check:
                sources = systemd.sources_to_be(state, self.disk, self.places.units)
            self._inputs[unit.name] = fingerprint.inputs(
                sources,
                unit.files,
                unit.links,
                fingerprint.values(unit.values, key or b""),
                key or b"",
                self.disk,
            )
        if state.active in ("inactive", "failed"):
            new = unit.name in self._new and state.active == "inactive"
            return Pending(part, unit.name, "start", ("new" if new else f"it is {state.active}",))
        if state.active == "deactivating":
            # Whoever stops it: a start waits for the end and takes everything anew.
            return Pending(part, unit.name, "start", ("it is stopping",))
        if unit.on_change == "nothing":
            return None
        known, unknown = fingerprint.known(unit.name, state.invocation, self.places.records)
        if key is None:
            known, unknown = None, "the host's key is missing"
        # Only what is up can take a change while it runs.
        running = state.active in ("active", "reloading")
        action = unit.on_change if running else "restart"
        if known is None or key is None:
            verb: Action = "reload" if action == "reload" else "restart"
            words = f"what it was started with is not known: {unknown}"
            return Pending(part, unit.name, verb, (words,))
        known, wider = redis_live.split(known)
        why = self._why(unit, state, known, key)
        if action == "live" and why and not self._live(unit, known):
            return Pending(part, unit.name, "restart", why)
        if wider:
            why += (f"user {', '.join(wider)}: what was allowed before still is",)
        return Pending(part, unit.name, action, why) if why else None

    def _why(
        self, unit: Unit, state: systemd.UnitState, known: Mapping[str, str], key: bytes
    ) -> tuple[str, ...]:
        """Why a process must take its inputs anew: empty where it need not."""
        wanted = self._inputs[unit.name]
        plain = tuple(fingerprint.compare(known, wanted))
        if not plain or not self.check:
            return plain
        told = self._told(unit, state, known, key)
        rest = [{k: v for k, v in inputs.items() if k not in told} for inputs in (known, wanted)]
        words = [word for label in sorted(told) for word in told[label]]
        return (*words, *fingerprint.compare(*rest)) or plain

    def _told(
        self, unit: Unit, state: systemd.UnitState, known: Mapping[str, str], key: bytes
    ) -> dict[str, list[str]]:
        """Labels of which the inventory's words are known: what the process has read still lies on the disk."""
        wanted, reads, disk = self._inputs[unit.name], (unit.files, unit.links), Disk()
        lying = fingerprint.inputs(state.sources, *reads, {}, key, disk)
        before = fingerprint.texts(state.sources, *reads, disk)
        sources = systemd.sources_to_be(state, self.disk, self.places.units)
        after = fingerprint.texts(sources, *reads, self.disk)
        told: dict[str, list[str]] = {}
        for label in lying.keys() | after.keys():
            if known.get(label) == wanted.get(label) or known.get(label) != lying.get(label):
                continue
            words = reasons.told(label, before.get(label), after.get(label))
            if words is not None:
                told[label] = words
        if known.get("runtime") != wanted.get("runtime"):
            # The loader lies in the runtime.
            told["environment PYTHONPATH"] = []
        return told

    def _key(self) -> bytes | None:
        """The host's key, made where there is none."""
        key = fingerprint.read_key(self.places.key)
        if key is None and not self.check and any(wanted.units for _, wanted in self.parts):
            path = Path(self.places.key)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            key = secrets.token_bytes(fingerprint.KEY_LENGTH)
            replace_file(path, key, 0o600, os.geteuid(), os.getegid())
        return key

    def _settle_list(self, unit: Unit, key: bytes | None) -> None:
        """What the recorder reads at the unit's next start."""
        if self.check or unit.on_change == "nothing" or key is None:
            return
        path = f"{self.places.lists}/{unit.name}.json"
        content: dict[str, object] = {
            "format": fingerprint.FORMAT,
            "files": list(unit.files),
            "links": list(unit.links),
            "values": fingerprint.values(unit.values, key),
        }
        if fingerprint.read_object(path) != content:
            fingerprint.write_object(path, content)

    # -- Redis, live ---------------------------------------------------------------------------------------

    def _live(self, unit: Unit, known: Mapping[str, str]) -> redis_live.Change | None:
        """What can be set in the running server; nothing where it has to be restarted."""
        change = redis_live.change_between(known, self._inputs[unit.name], unit)
        if change is None or unit.redis is None:
            return None
        # With another password, or an authority that signed another certificate than the one shown, we can't get in.
        doubtful = unit.redis.user in change.users or redis_live.READ_ANEW & change.settings.keys()
        if doubtful and not redis_live.takes_password(unit.redis, self.host.talk):
            return None
        return change

    def _set_live(self, unit: Unit) -> bool:
        """Whether there was anything to set: what users may still do beside their rules ends with `finish` alone."""
        access = unit.redis
        state = self._show([unit.name])[unit.name]
        known, _ = fingerprint.known(unit.name, state.invocation, self.places.records)
        inputs, wider = redis_live.split(known or {})
        change = redis_live.change_between(inputs, self._inputs[unit.name], unit)
        if access is None or known is None or change is None:
            raise SettleError(f"{unit.name} was started anew meanwhile; run again")
        if not self.options.finish and change == redis_live.Change():
            return False
        rules = redis_live.wanted_users(unit, self.disk)
        self._doubt(unit.name, state.invocation, known)
        try:
            if change.key:
                redis_live.stage(change.key, access.staged_key)
            if self.options.finish:
                redis_live.finish(access, change, wider, rules, self.host.talk)
                wider = []
            else:
                wider += redis_live.apply(access, change, rules, self.host.talk)
        except RedisError as error:
            raise SettleError(
                f"{unit.name} did not take its new settings while it runs: {error}\n"
                f"They lie on disk, and the next run tries again. Next, on this host: journalctl -u {unit.name} -n 100"
            ) from error
        self._record(unit.name, state.invocation, redis_live.marks(wider))
        return True

    # -- what the plan shows beside units ------------------------------------------------------------------

    def _plan_removal(self, states: Mapping[str, systemd.UnitState]) -> None:
        for part, wanted in self.parts:
            rest = self._surplus_files(wanted)
            for name in (name for name, owner in self._surplus.items() if owner == part):
                notes = [f"{d}/{name}.json" for d in (self.places.lists, self.places.records)]
                listed = fingerprint.read_object(notes[0])
                own = {*states[name].sources, *_texts(listed, "files"), *_texts(listed, "links")}
                gone = [path for path in rest if path in own]
                rest = [path for path in rest if path not in own and path not in notes]
                delete = f", delete {count(len(gone), 'file')}" if gone else ""
                why = f"not in the inventory: drain, stop{delete}"
                self.report.pending.append(Pending(part, name, "remove", (why,)))
            if rest:
                why = f"not in the inventory: delete {count(len(rest), 'file')}"
                self.report.pending.append(Pending(part, "", "remove", (why, *rest)))

    def _plan_rest(self, states: Mapping[str, systemd.UnitState]) -> None:
        """What comes beside what the pending units take up; packages and releases stand before all."""
        concerned = self._concerned(states)
        first: list[Pending] = []
        rest: list[Pending] = []
        for part, wanted in self.parts:
            if wanted.packages:
                first.append(Pending(part, "", "install", wanted.packages))
            for release in wanted.releases:
                if not releases.built(release.path):
                    name = f"{release.what} {os.path.basename(release.path)}{releases.again(release.path)}"
                    first.append(Pending(part, "", "build", (name,)))
            first += [
                Pending(part, command.subject, "run", (command.text,))
                for command in wanted.commands
            ]
            changes = [
                change
                for change in self.report.changes
                if change.part == part and not concerned(change.path)
            ]
            links = tuple(change.link for change in changes if change.link)
            paths = tuple(change.path for change in changes if not change.link)
            if paths:
                rest.append(Pending(part, "", "write", paths))
            if links:
                rest.append(Pending(part, "", "link", links))
        self.report.pending[:] = [*first, *self.report.pending, *rest]

    def _concerned(self, states: Mapping[str, systemd.UnitState]) -> Callable[[str], bool]:
        """Whether a changed path is one that a pending unit takes up, or a directory around such."""
        units = {unit.name: unit for _, unit in self._units()}
        exact: set[str] = set()
        patterns: list[str] = []
        for item in self.report.pending:
            if item.unit not in units:
                continue
            unit, state = units[item.unit], states[item.unit]
            exact.add(f"enable {unit.name}")
            exact.update(unit.links)
            exact.update(systemd.sources_to_be(state, self.disk, self.places.units))
            patterns += unit.files
        around = {
            str(parent) for path in (*exact, *patterns) for parent in PurePosixPath(path).parents
        }

        def concerned(path: str) -> bool:
            return (
                path in exact
                or any(PurePosixPath(path).match(pattern) for pattern in patterns)
                or (path in around and path.endswith(".d"))
            )

        return concerned

    # -- acting --------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Act on what `plan_units` found: what has to go, then all starts at once, then unit after unit."""
        if self.check or not self.options.act:
            return
        units = {unit.name: unit for _, unit in self._units()}
        pending = self.report.pending
        for item in (item for item in pending if item.action == "remove"):
            if item.unit:
                self._remove(item.unit)
            self.report.done.append(item)
        self._remove_files()
        starts = [item for item in pending if item.action == "start"]
        self._bring_up([units[item.unit] for item in starts], "start")
        self.report.done.extend(starts)
        for item in pending:
            if item.action == "restart" and self.options.restart:
                self._bring_up([units[item.unit]], "restart")
            elif item.action == "reload":
                self._reload(units[item.unit])
            elif item.action == "live":
                if not self._set_live(units[item.unit]):
                    continue
            else:
                continue
            self.report.done.append(item)

    def _reload(self, unit: Unit) -> None:
        state = self._show([unit.name])[unit.name]
        known, _ = fingerprint.known(unit.name, state.invocation, self.places.records)
        self._doubt(unit.name, state.invocation, known or {})
        before = self.host.children(state.main_pid)
        self._command(["systemctl", "reload", unit.name], unit)
        self._await_children(unit, state, before)
        self._record(unit.name, state.invocation)

    def _await_children(self, unit: Unit, state: systemd.UnitState, before: frozenset[int]) -> None:
        """nginx is only told to reload; where it can't, a port being taken, it keeps its old processes."""
        deadline = self.host.clock() + _RELOAD_PATIENCE
        while before and not self.host.children(state.main_pid) - before:
            if self.host.clock() > deadline:
                what = f"has no new processes {_RELOAD_PATIENCE:.0f} s after its reload, so it keeps what it had"
                raise self._failure(unit, state, what)
            self.host.sleep(0.1)

    def _doubt(self, name: str, invocation: str, known: Mapping[str, str]) -> None:
        """Write down, before it is done, that the process may have taken what differs.

        Where this run ends in between, the next one does it again, even if the change is taken back first.
        """
        wanted = self._inputs[name]
        differing = [
            label for label in known.keys() | wanted.keys() if known.get(label) != wanted.get(label)
        ]
        inputs = {**known, **dict.fromkeys(differing, _UNSURE)}
        fingerprint.write_record(name, invocation, inputs, directory=self.places.records)

    def _record(self, name: str, invocation: str, further: Mapping[str, str] | None = None) -> None:
        """The record follows what was brought to the running process."""
        inputs = {**self._inputs[name], **(further or {})}
        fingerprint.write_record(name, invocation, inputs, directory=self.places.records)

    def _bring_up(self, units: Sequence[Unit], verb: str) -> None:
        """Start or restart units together and wait for all of them."""
        if not units:
            return
        before = self._show([unit.name for unit in units])
        # Without waiting: should this run be killed, systemd still ends what was begun.
        names = [unit.name for unit in units]
        self._command(["systemctl", verb, "--no-block", *names], *units)
        self._wait(units, before)

    def _wait(self, units: Sequence[Unit], before: Mapping[str, systemd.UnitState]) -> None:
        """Until the units run anew. The time that an old process takes to drain is bounded by systemd."""
        waiting = {unit.name: unit for unit in units}
        begin = self.host.clock()
        deadlines = {unit.name: begin + unit.timeout for unit in units}
        # systemd goes on counting where a crash loop of before is interrupted.
        restarts: dict[str, int] = {}
        while True:
            for name, state in self._show(list(waiting)).items():
                unit, old = waiting[name], before[name]
                fresh = state.invocation != old.invocation or not old.invocation
                counted = restarts.setdefault(name, state.restarts) if fresh else old.restarts
                if fresh and state.active == "active":
                    self._witness(unit, state)
                    del waiting[name]
                    continue
                if not fresh and (state.job or state.active == "deactivating"):
                    deadlines[name] = self.host.clock() + unit.timeout + _STOP_SLACK
                tries = state.restarts - counted
                self._give_up(unit, state, tries, fresh, self.host.clock() > deadlines[name])
            if not waiting:
                return
            self.host.sleep(0.2)

    def _witness(self, unit: Unit, state: systemd.UnitState) -> None:
        """A unit without the recorder, such as somebody else's, has its record from us."""
        if unit.name not in self._inputs:
            return
        record = fingerprint.read_object(f"{self.places.records}/{unit.name}.json")
        if record.get("invocation") != state.invocation:
            self._record(unit.name, state.invocation)

    def _give_up(
        self,
        unit: Unit,
        state: systemd.UnitState,
        tries: int,
        fresh: bool,
        late: bool,
    ) -> None:
        hopeless = fresh and systemd.hopeless(state.active, state.sub, state.exit_status)
        if tries > systemd.RESTARTS_TOLERATED or hopeless:
            raise self._failure(unit, state, "does not start")
        if late:
            raise self._failure(unit, state, f"was not active within {unit.timeout:.0f} s")

    def _failure(self, unit: Unit, state: systemd.UnitState, what: str) -> SettleError:
        journal = systemd.journal(unit.name, runner=self.host.run)
        lines = [
            f"{unit.name} {what}: it is {state.described}.",
            "The last lines of its journal:",
            *(f"  {line}" for line in journal.splitlines()),
            f"Next, on this host: journalctl -u {unit.name} -n 100",
        ]
        if unit.hint:
            lines.append(unit.hint)
        return SettleError("\n".join(lines))

    # -- what is not wanted any more -----------------------------------------------------------------------

    def _surplus_units(self, wanted: Iterable[str]) -> dict[str, str]:
        """Units that are ours by name and not wanted, each with its part.

        A name that another unit only mentions (After=) is listed as well; whether it is there, systemd says.
        """
        patterns = [(part, p) for part, wanted in self.parts for p in wanted.owned.units]
        names = systemd.listed([pattern for _, pattern in patterns], self.host.run)
        return {
            name: next(part for part, p in patterns if fnmatch.fnmatchcase(name, p))
            for name in names
            if name not in set(wanted)
        }

    def _remove(self, name: str) -> None:
        # Stopping drains; it lasts as long as the unit's own TimeoutStopSec allows.
        self._command(["systemctl", "stop", name])
        if self._show([name])[name].active == "failed":
            # It would be listed as such until the host restarts. Where that fails, systemd has forgotten it already.
            self.host.run(["systemctl", "reset-failed", name])
        self._command(["systemctl", "disable", "--quiet", name])
        self.report.changes.append(Change(self._surplus[name], f"remove {name}"))
        for directory in (self.places.lists, self.places.records):
            Path(f"{directory}/{name}.json").unlink(missing_ok=True)

    def _remove_files(self) -> None:
        surplus = [
            (part, path) for part, wanted in self.parts for path in self._surplus_files(wanted)
        ]
        for part, path in surplus:
            os.unlink(path)
            self.report.changes.append(Change(part, path))
            parent = os.path.dirname(path)
            # A unit's drop-in directory goes with our last file in it; with a user's own drop-in it stays. Elsewhere
            # such a directory, as nginx's conf.d, is its package's.
            drop_in = parent.startswith(self.places.units) and parent.endswith(".d")
            if drop_in and not os.listdir(parent):
                os.rmdir(parent)
        if any(path.startswith(self.places.units) for _, path in surplus):
            self._command(["systemctl", "daemon-reload"])

    def _surplus_files(self, wanted: Wanted) -> list[str]:
        """Files and links on disk that are ours by name and not wanted, and what we note of such units.

        Never a directory: we own none by name, and a user's drop-ins may lie in it.
        """
        ours = {item.dest for item in wanted.files} | {link.path for link in wanted.links}
        found = {
            path
            for pattern in wanted.owned.files
            for path in glob.glob(pattern)
            if os.path.islink(path) or not os.path.isdir(path)
        }
        units = {unit.name for unit in wanted.units}
        for directory in (self.places.lists, self.places.records):
            for path in glob.glob(f"{directory}/*.json"):
                name = os.path.basename(path).removesuffix(".json")
                if name not in units and any(
                    fnmatch.fnmatchcase(name, pattern) for pattern in wanted.owned.units
                ):
                    found.add(path)
        return sorted(found - ours)

    # -- small helpers -------------------------------------------------------------------------------------

    def _show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        return systemd.show(names, self.host.run)

    def _command(self, command: Sequence[str], *units: Unit) -> None:
        """Run a command; where it fails for units, the one that it names is told of."""
        done = self.host.run(command)
        if done.returncode == 0:
            return
        words = done.output.strip()
        for unit in sorted(units, key=lambda unit: unit.name not in words):
            state = self._show([unit.name])[unit.name]
            raise self._failure(unit, state, f"refused `{' '.join(command)}` ({words})")
        raise SettleError(f"`{' '.join(command)}` failed: {words}")


def _nothing() -> None:
    """What is not checked file by file."""


def _texts(content: Mapping[str, object], key: str) -> list[str]:
    value = content.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []


def _shown(state: systemd.UnitState) -> dict[str, object]:
    return {
        key: value
        for key, value in asdict(state).items()
        if key in ("active", "sub", "invocation", "main_pid", "job", "status")
    }


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


def settle(parts: Sequence[Part], options: Options, *, check: bool) -> Report:
    """Bring the host to what the parts want.

    Args:
        parts: What roles want, each under its name; several only in check mode.
        options: How units are acted on.
        check: Change nothing.

    Raises:
        SettleError: With a message for the person who runs the play.
    """
    if len(parts) > 1 and not check:
        raise SettleError("several roles at once can only be foretold: run in check mode")
    try:
        with undisturbed() if check else alone():
            settler = Settler(parts, options, check=check)
            settler.settle_files()
            settler.plan_units()
            settler.apply()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise SettleError(
            f"{where}{error.strerror or error}. Mend that on this host and run again; what was begun is finished then."
        ) from error
    return settler.report
