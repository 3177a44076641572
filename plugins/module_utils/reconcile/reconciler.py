"""Bring one host to the state that roles want: files first, then the units that they concern.

Runs on the host, inside the `settle` module, as root. Restarts follow need: what a process was started with was
written down at its start (see `fingerprint`), and a unit is restarted if that differs from what it would be started
with now (`unit_plan`). A run that ends between writing and restarting is therefore finished by the next one, and a
change that is taken back before the restart restarts nothing.

In check mode nothing is written. What would be written is laid over the disk, for all roles of the host together, so
that what one role changes and another one's unit reads is foretold as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    manifest,
    plan_rest,
    recorder,
    releases,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import Files
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import Host, Places
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.lock import (
    alone,
    undisturbed,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Change,
    Report,
    SettleError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.overlay import Overlay
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.surplus import (
    Surplus,
    surplus_files,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.unit_actions import (
    UnitActions,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.unit_plan import UnitPlan
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.validation import (
    Validation,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Part


@dataclass(frozen=True)
class Options:
    """How units are acted on.

    Attributes:
        act: Whether to start, change and remove units at all; files, links and enabling happen either way.
        restart: Whether a unit that has to be restarted is; otherwise it stays pending.
        finish: Leave users of running servers no more than their rules: whatever knew older ones has been restarted.
        manifest: Path of the list of what the application has on the host; without one there is none.
    """

    act: bool = True
    restart: bool = True
    finish: bool = False
    manifest: str = ""


class Settler:
    """Settles one host, in the order of its methods; `report` says what was done, or in check mode would be."""

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
        self.disk = _overlay(parts, self.places) if check else Disk()
        self.validation = Validation(parts, self.host, self.report)
        self.surplus = Surplus(parts, self.host, self.report)
        # Before anything is written: it notes which units are new.
        self.unit_plan = UnitPlan(parts, self.host, self.disk, self.report, check=check)
        self._unlisted: list[str] = []

    def settle_files(self) -> None:
        """Bring users, directories, files and links to what is wanted; if a check refuses files, no file of a role."""
        self._list()
        if self.check:
            self.report.warnings += releases.foretell_refused(self.parts, self.disk)
        releases.require_built(self.parts, check=self.check)
        for part, wanted in self.parts:
            files = Files(part, wanted, self.report, check=self.check, runner=self.host.run)
            files.settle(self.validation.of_written if not self.check else _nothing)
        part_with_units = next((name for name, wanted in self.parts if wanted.units), None)
        if part_with_units is not None:
            recorder.settle_program(
                part_with_units, self.places, self.disk, self.report, check=self.check
            )

    def _list(self) -> None:
        """Write down what will be on the host before any of it is there."""
        path = self.options.manifest
        if not path:
            return
        marked = os.path.lexists(f"{os.path.dirname(path)}/fleet.json")
        listed = manifest.read(path) or manifest.Manifest(whole=not marked)
        listed.forget_gone()
        self._unlisted = [part for part, wanted in self.parts if listed.note(wanted)]
        if not self.check:
            manifest.write(path, listed)
            self._report_list()

    def _report_list(self) -> None:
        """Report the list for each part that adds to it; in a plan only if nothing else is to do for the part."""
        due = {item.part for item in self.report.changes} | {i.part for i in self.report.pending}
        changed = [part for part in self._unlisted if part not in due or not self.check]
        self.report.changes += [Change(part, self.options.manifest) for part in changed]

    def plan_units(self) -> None:
        """Find out which units have to be acted on; units are reloaded from disk and enabled at once."""
        names = [unit.name for _, unit in self.unit_plan.units]
        self.surplus.find(names)
        states = self.host.show([*names, *self.surplus.units])
        touched = any(path.startswith(self.places.units) for path in self.report.changed)
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
            self.validation.of_earlier(self.validation.taken_up(states, self.disk))
        self.surplus.plan(states)
        if self.check:
            self._report_list()
            plan_rest.add_rest(self.parts, states, self.disk, self.places.units, self.report)
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

    def apply(self) -> None:
        """Act on what `plan_units` found: what has to go, then all starts at once, then unit after unit."""
        if self.check or not self.options.act:
            return
        actions = UnitActions(self.host, self.disk, self.unit_plan.inputs)
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
                if not actions.set_live(units[item.unit], finish=self.options.finish):
                    continue
            else:
                continue
            self.report.done.append(item)


def _overlay(parts: Sequence[Part], places: Places) -> Overlay:
    overlay = Overlay()
    for _, wanted in parts:
        overlay.add(wanted)
    for _, wanted in parts:
        overlay.remove(surplus_files(wanted, places))
    return overlay


def _nothing() -> None:
    """Check nothing file by file."""


def _shown(state: systemd.UnitState) -> dict[str, object]:
    return {
        key: value
        for key, value in asdict(state).items()
        if key in ("active", "sub", "invocation", "main_pid", "job", "status")
    }


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
