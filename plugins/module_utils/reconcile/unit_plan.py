"""What each unit needs: to be started, restarted, reloaded, changed while it runs, or nothing; and why.

Runs on the host, inside the `settle` module, as root. A process is held against what it would be started with now: the
record of its start (`comparison`) against fingerprints of what is on disk, or in check mode will be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    comparison,
    fingerprint,
    reasons,
    recorder,
    redis_live,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import Host
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Action,
    Change,
    Pending,
    Report,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import (
    Part,
    Unit,
    units_of,
)


class UnitPlan:
    """Plans what is done to the units of all parts; make it before anything is written, or no unit is new.

    Attributes:
        inputs: For each unit that follows changes, the fingerprints of what it would be started with now.
    """

    def __init__(
        self, parts: Sequence[Part], host: Host, disk: Disk, report: Report, *, check: bool
    ) -> None:
        self.units = units_of(parts)
        self.host = host
        self.places = host.places
        self.disk = disk
        self.report = report
        self.check = check
        self.inputs: dict[str, dict[str, str]] = {}
        self._new = {unit.name for _, unit in self.units if self._is_new(unit.name)}

    def enable(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Enable the units that are not."""
        found = [(part, u.name) for part, u in self.units if not _enabled(states[u.name])]
        self.report.changes.extend(Change(part, f"enable {name}") for part, name in found)
        if found and not self.check:
            self.host.command(["systemctl", "enable", "--quiet", *(name for _, name in found)])

    def plan(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Report what has to be done to each unit, and write what the recorder reads at its next start."""
        if not self.units:
            return
        key = recorder.settle_key(self.places, check=self.check)
        for part, unit in self.units:
            if not self.check and unit.on_change != "nothing" and key is not None:
                recorder.settle_list(unit, key, self.places)
            if pending := self._needed(part, unit, states[unit.name], key):
                self.report.pending.append(pending)

    def note_reload(self, stale: Iterable[str]) -> None:
        """Report that systemd has to read unit files again, even if no unit has to be acted on for it."""
        idle = set(stale) - {item.unit for item in self.report.pending}
        parts = dict.fromkeys(part for part, unit in self.units if unit.name in idle)
        self.report.changes.extend(Change(part, "daemon-reload") for part in parts)

    def _is_new(self, name: str) -> bool:
        """Return whether a unit was never on this host. An instance has no file that could tell, but a list."""
        if os.path.exists(f"{self.places.lists}/{name}.json"):
            return False
        return "@" in name or not systemd.fragments(name, self.places.units)

    def _needed(
        self, part: str, unit: Unit, state: systemd.UnitState, key: bytes | None
    ) -> Pending | None:
        if unit.on_change != "nothing":
            sources = state.sources
            if self.check:
                sources = systemd.sources_to_be(state, self.disk, self.places.units)
            self.inputs[unit.name] = fingerprint.inputs(
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
            # Whatever stops it: a start waits for the end and takes everything again.
            return Pending(part, unit.name, "start", ("it is stopping",))
        if unit.on_change == "nothing":
            return None
        known, unknown = comparison.known(unit.name, state.invocation, self.places.records)
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
        if action == "live" and why and not self._can_change_live(unit, known):
            return Pending(part, unit.name, "restart", why)
        if wider:
            why += (f"user {', '.join(wider)}: what was allowed before still is",)
        return Pending(part, unit.name, action, why) if why else None

    def _why(
        self, unit: Unit, state: systemd.UnitState, known: Mapping[str, str], key: bytes
    ) -> tuple[str, ...]:
        """Return why a process must take its inputs again; nothing if it need not."""
        wanted = self.inputs[unit.name]
        plain = tuple(comparison.compare(known, wanted))
        if not plain or not self.check:
            return plain
        told = self._told(unit, state, known, key)
        rest = [{k: v for k, v in inputs.items() if k not in told} for inputs in (known, wanted)]
        words = [word for label in sorted(told) for word in told[label]]
        return (*words, *comparison.compare(*rest)) or plain

    def _told(
        self, unit: Unit, state: systemd.UnitState, known: Mapping[str, str], key: bytes
    ) -> dict[str, list[str]]:
        """Return the inventory's words for labels whose old text is known: what the process read is still on disk."""
        wanted, reads, disk = self.inputs[unit.name], (unit.files, unit.links), Disk()
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
            # The loader is in the runtime.
            told["environment PYTHONPATH"] = []
        return told

    def _can_change_live(self, unit: Unit, known: Mapping[str, str]) -> bool:
        """Return whether a running Redis can take the change; otherwise it has to be restarted."""
        change = redis_live.change_between(known, self.inputs[unit.name], unit)
        if change is None or unit.redis is None:
            return False
        # With another password, or an authority that signed another certificate than the one shown, we can't get in.
        doubtful = unit.redis.user in change.users or redis_live.READ_ANEW & change.settings.keys()
        return not doubtful or redis_live.takes_password(unit.redis, self.host.talk)


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
