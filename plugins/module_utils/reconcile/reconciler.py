"""Brings one host to the state that roles want: files first, then the affected units.

Runs on the host, inside the `reconcile` module, as root. Units are restarted only if needed: what a process was
started with is recorded at its start (see `fingerprint`), and a unit is restarted if it would be started with something
else now (`unit_plan`). So if a run ends between writing and restarting, the next one finishes it. A change that is
reverted before the restart restarts nothing.

In check mode nothing is written. The planned writes of all roles of the host are laid over the disk, so that the plan
includes units which read what another role changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import manifest, plan_rest, recorder, releases, systemd
from .desired_state import DesiredState, Part
from .files import Files
from .fingerprint import Disk
from .host import Host
from .lock import exclusive, shared
from .ours import is_of_others, is_ours
from .overlay import Overlay
from .redis_prepare import RedisPreparation
from .report import Change, HostReport, ReconcileError
from .surplus import Surplus
from .unit_actions import UnitActions
from .unit_plan import UnitPlan
from .validation import Validation


@dataclass(frozen=True)
class ReconcileOptions:
    """Options for acting on units.

    Attributes:
        act: Whether to start, change and remove units at all. Files, links and enabling happen either way.
        restart: Whether to restart units that need it; otherwise they stay pending.
        trial: Only let daemons check the files; afterwards everything is as it was.
        finish: Limit the users of running Redis servers to their rules, as all clients with older rules were restarted.
        revoke: End changed passwords and rights of running Redis servers at once, with the connections of their users.
        manifest: Path of the list of what the application has on the host; empty for no list.
    """

    act: bool = True
    restart: bool = True
    trial: bool = False
    finish: bool = False
    revoke: bool = False
    manifest: str = ""


class HostReconciler:
    """Reconciles one host: call `apply_files`, `plan_units` and `apply_units` in this order.

    `report` says what was done, or would be done in check mode.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        options: ReconcileOptions | None = None,
        *,
        check: bool = False,
        host: Host | None = None,
    ) -> None:
        self.parts = parts
        self.options = options or ReconcileOptions()
        self.check = check
        self.host = host or Host()
        self.paths = self.host.paths
        self.report = HostReport()
        self._listed = _listed(self.options.manifest)
        # What earlier runs have written; the list will also have what this one is about to write.
        self.surplus = Surplus(parts, self.host, self.report, frozenset(self._listed.files))
        self.disk = self._overlay() if check else Disk()
        self.validation = Validation(parts, self.host, self.report)
        # Must come before any write, because it notes which units are new.
        self.unit_plan = UnitPlan(parts, self.host, self.disk, self.report, check=check)
        self._unlisted: list[str] = []

    def apply_files(self) -> None:
        """Apply users, directories, files and links. If a check fails, all files of that role are restored."""
        self._prepare_redis()
        self._list()
        if self.check:
            self.report.warnings += releases.check_suitable(self.parts, self.disk)
        releases.require_built(self.parts, check=self.check)
        for part, wanted in self.parts:
            files = Files(part, wanted, self.report, check=self.check, runner=self.host.run)
            files.apply(self.validation.check_written if not self.check else _nothing)
        part_with_units = next((name for name, wanted in self.parts if wanted.units), None)
        if part_with_units is not None:
            recorder.install_program(
                part_with_units, self.paths, self.disk, self.report, check=self.check
            )

    def _prepare_redis(self) -> None:
        """Prepare running Redis servers before anything is written."""
        units = [unit for _, unit in self.unit_plan.units if unit.redis]
        if units:
            wanted = self._overlay()
            for name, state in self.host.show([unit.name for unit in units]).items():
                unit = next(one for one in units if one.name == name)
                RedisPreparation(self.host, unit, state, wanted).prepare(check=self.check)

    def try_files(self) -> None:
        """Let daemons check the files, and restore what was there before; report nothing."""
        for part, wanted in self.parts:
            files = Files(part, wanted, self.report, check=False, runner=self.host.run)
            files.try_out(self.validation.check_written)
        self.report = HostReport()

    def _overlay(self) -> Overlay:
        """Return the disk as it will be."""
        overlay = Overlay()
        for _, wanted in self.parts:
            overlay.add(wanted)
        for _, wanted in self.parts:
            overlay.remove(self.surplus.files(wanted))
        return overlay

    def _list(self) -> None:
        """Write the manifest before anything in it is on the host."""
        path = self.options.manifest
        if not path:
            return
        listed = self._listed
        for part, wanted in self.parts:
            _refuse_files_of_others(part, wanted, listed)
        listed.forget_gone()
        self._unlisted = [part for part, wanted in self.parts if listed.note(wanted)]
        if not self.check:
            manifest.write(path, listed)
            self._report_list()

    def _report_list(self) -> None:
        """Report the manifest as changed for each part that adds to it; in a plan only if nothing else changes."""
        due = {item.part for item in self.report.changes} | {i.part for i in self.report.pending}
        changed = [part for part in self._unlisted if part not in due or not self.check]
        self.report.changes += [Change(part, self.options.manifest) for part in changed]

    def plan_units(self) -> None:
        """Find the units that need an action. Reload unit files and enable units right away."""
        names = [unit.name for _, unit in self.unit_plan.units]
        self.surplus.find(names)
        states = self.host.show([*names, *self.surplus.units])
        touched = any(path.startswith(self.paths.units) for path in self.report.changed)
        stale = {name for name in names if states[name].need_reload}
        if (touched or stale) and not self.check:
            self.host.command(["systemctl", "daemon-reload"])
            states = self.host.show([*names, *self.surplus.units])
        self.unit_plan.enable(states)
        self.surplus.keep_existing(states)
        self.unit_plan.plan(states)
        if not touched:
            self.unit_plan.note_reload(stale)
        if not self.check:
            self.validation.check_earlier(self.validation.taken_up(states, self.disk))
        self.surplus.plan(states)
        if self.check:
            self._report_list()
            plan_rest.add_rest(self.parts, states, self.disk, self.paths.units, self.report)
        self._report_units(names, states)

    def _report_units(self, names: Sequence[str], states: Mapping[str, systemd.UnitState]) -> None:
        self.report.states = {
            name: _shown(state)
            for name, state in states.items()
            if name in names or name in self.surplus.units
        }
        self.report.diff.extend(
            {"prepared": f"{f'{item.action} {item.unit}'.rstrip()}: {item.text}\n"}
            for item in self.report.pending
        )

    def apply_units(self) -> None:
        """Carry out what `plan_units` found: removals, then all starts at once, then one unit after another."""
        if self.check or not self.options.act:
            return
        actions = UnitActions(
            self.host, self.disk, self.unit_plan.inputs, revoke=self.options.revoke
        )
        units = {unit.name: unit for _, unit in self.unit_plan.units}
        pending = self.report.pending
        for item in (item for item in pending if item.action == "remove"):
            if item.unit:
                self.surplus.remove_unit(item.unit)
            self.report.done.append(item)
        self.surplus.remove_files()
        starts = [item for item in pending if item.action == "start"]
        actions.bring_up([units[item.unit] for item in starts], "start")
        self.report.done.extend(starts)
        for item in pending:
            if item.action == "restart" and self.options.restart:
                actions.bring_up([units[item.unit]], "restart")
            elif item.action == "reload":
                actions.reload(units[item.unit])
            elif item.action == "live":
                waiting = self.unit_plan.waiting.get(item.unit, ())
                if not actions.set_live(
                    units[item.unit], finish=self.options.finish, waiting=waiting
                ):
                    continue
            else:
                continue
            self.report.done.append(item)
        if self.options.restart:
            for unit in units.values():
                actions.await_replication(unit)
        self.report.warnings += actions.warnings
        if self.options.finish:
            self.report.warnings += self.unit_plan.unknown

    def note_change(self) -> None:
        """Touch the file that has the time of the last change on this host, if this call has changed something."""
        manifest_path = self.options.manifest
        changed = self.report.changes or self.report.done
        if self.check or not manifest_path or not changed:
            return
        directory = Path(self.paths.changed)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        (directory / os.path.basename(os.path.dirname(manifest_path))).touch()


def _listed(path: str) -> manifest.Manifest:
    """Return the list of what the application has on the host; a new one if there is none."""
    marked = os.path.lexists(f"{os.path.dirname(path)}/fleet.json")
    return manifest.read(path) or manifest.Manifest(whole=not marked)


def _refuse_files_of_others(part: str, wanted: DesiredState, listed: manifest.Manifest) -> None:
    """Refuse to replace a file that no run has written.

    Raises:
        ReconcileError: There is such a file.
    """
    for file in (*wanted.sysusers, *wanted.files):
        if is_ours((file.content or "").encode()) and is_of_others(file.dest, listed.files):
            raise ReconcileError(
                f"{file.dest} exists, and Celery Fleet has not written it, so {part} does not replace it. Choose"
                " another celery_app_name; or move the file away, after `systemctl disable --now` if it is a unit,"
                " and run again"
            )


def _nothing() -> None:
    """Check nothing."""


def _shown(state: systemd.UnitState) -> dict[str, object]:
    return {
        key: value
        for key, value in asdict(state).items()
        if key in ("active", "sub", "invocation", "main_pid", "job", "status")
    }


def reconcile(parts: Sequence[Part], options: ReconcileOptions, *, check: bool) -> HostReport:
    """Bring the host to the state that the parts want.

    Args:
        parts: What roles want, each with the role's name; several only in check mode.
        options: Options for acting on units.
        check: Change nothing.

    Raises:
        ReconcileError: It failed; the message is for the person who runs the play.
    """
    if len(parts) > 1 and not check:
        raise ReconcileError("several roles at once can only be planned: run in check mode")
    try:
        with shared() if check else exclusive():
            reconciler = HostReconciler(parts, options, check=check)
            if options.trial:
                reconciler.try_files()
                return reconciler.report
            reconciler.apply_files()
            try:
                reconciler.plan_units()
                reconciler.apply_units()
            finally:
                reconciler.note_change()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ReconcileError(
            f"{where}{error.strerror or error}. Fix that on this host and run again to finish what was begun."
        ) from error
    return reconciler.report
