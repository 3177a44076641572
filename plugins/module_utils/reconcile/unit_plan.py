"""Decides what each unit needs and why: a start, restart, reload, live change, or nothing.

Runs on the host, inside the `reconcile` module, as root. The record of a process's start is compared (`comparison`)
with fingerprints of what it would be started with now: what is on disk, or will be in check mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from . import comparison, fingerprint, left_queues, reasons, recorder, redis_live, systemd
from .desired_state import Part, Unit, units_of
from .fingerprint import Disk
from .host import Host
from .redis_client import RedisError
from .report import Action, Change, HostReport, PendingAction


class UnitPlan:
    """Plans the actions for the units of all parts. Create it before anything is written, or no unit counts as new.

    Attributes:
        inputs: For each unit that follows changes, the fingerprints of what it would be started with now.
        waiting: For each broker, how many tasks wait in queues that the inventory no longer names.
        unknown: Warnings, for the end of a run, about brokers that do not say that.
    """

    def __init__(
        self, parts: Sequence[Part], host: Host, disk: Disk, report: HostReport, *, check: bool
    ) -> None:
        self.units = units_of(parts)
        self.host = host
        self.paths = host.paths
        self.disk = disk
        self.report = report
        self.check = check
        self.inputs: dict[str, dict[str, str]] = {}
        self.waiting: dict[str, dict[str, int]] = {}
        self.unknown: list[str] = []
        self._new = {unit.name for _, unit in self.units if self._is_new(unit.name)}

    def enable(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Enable units that are not enabled yet."""
        found = [(part, u.name) for part, u in self.units if not _enabled(states[u.name])]
        self.report.changes.extend(Change(part, f"enable {name}") for part, name in found)
        if found and not self.check:
            self.host.command(["systemctl", "enable", "--quiet", *(name for _, name in found)])

    def plan(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Report the action that each unit needs, and write the list that the recorder reads at its next start."""
        if not self.units:
            return
        key = recorder.ensure_key(self.paths, check=self.check)
        for part, unit in self.units:
            if not self.check and unit.on_change != "nothing" and key is not None:
                recorder.write_inputs(unit, key, self.paths)
            if pending := self._needed(part, unit, states[unit.name], key):
                self.report.pending.append(pending)

    def note_reload(self, stale: Iterable[str]) -> None:
        """Report that systemd has to reload unit files, even if no unit needs an action."""
        idle = set(stale) - {item.unit for item in self.report.pending}
        parts = dict.fromkeys(part for part, unit in self.units if unit.name in idle)
        self.report.changes.extend(Change(part, "daemon-reload") for part in parts)

    def _is_new(self, name: str) -> bool:
        """Return whether a unit was never on this host. An instance has no unit file, only a list of inputs."""
        if os.path.exists(f"{self.paths.lists}/{name}.json"):
            return False
        return "@" in name or not systemd.fragments(name, self.paths.units)

    def _needed(
        self, part: str, unit: Unit, state: systemd.UnitState, key: bytes | None
    ) -> PendingAction | None:
        if unit.on_change != "nothing":
            sources = state.sources
            if self.check:
                sources = systemd.sources_to_be(state, self.disk, self.paths.units)
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
            return PendingAction(
                part, unit.name, "start", ("new" if new else f"it is {state.active}",)
            )
        if state.active == "deactivating":
            # A start waits until the unit has stopped, and then uses all current inputs.
            return PendingAction(part, unit.name, "start", ("it is stopping",))
        if unit.on_change == "nothing":
            return None
        known, unknown = comparison.started_with(unit.name, state.invocation, self.paths.records)
        if key is None:
            known, unknown = None, "the host's key is missing"
        # Only a running unit can be changed live.
        running = state.active in ("active", "reloading")
        action = unit.on_change if running else "restart"
        if known is None or key is None:
            verb: Action = "reload" if action == "reload" else "restart"
            words = f"what it was started with is not known: {unknown}"
            return PendingAction(part, unit.name, verb, (words,))
        known, wider = redis_live.split(known)
        why = self._why(unit, state, known, key)
        if action == "live" and why and not self._can_change_live(unit, known):
            return PendingAction(part, unit.name, "restart", why)
        if wider:
            why += (f"user {', '.join(wider)}: {redis_live.STILL_ALLOWED}",)
        if self._has_left_queues(unit, known) and not why:
            why = (left_queues.TASKS_WAIT,)
        return PendingAction(part, unit.name, action, why) if why else None

    def _why(
        self, unit: Unit, state: systemd.UnitState, known: Mapping[str, str], key: bytes
    ) -> tuple[str, ...]:
        """Return why a process must read its inputs again; empty if it need not."""
        wanted = self.inputs[unit.name]
        plain = tuple(comparison.compare(known, wanted))
        if not plain or not self.check:
            return plain
        explained = self._explained(unit, state, known, key)
        rest = [
            {k: v for k, v in inputs.items() if k not in explained} for inputs in (known, wanted)
        ]
        words = [word for label in sorted(explained) for word in explained[label]]
        return (*words, *comparison.compare(*rest)) or plain

    def _explained(
        self, unit: Unit, state: systemd.UnitState, known: Mapping[str, str], key: bytes
    ) -> dict[str, list[str]]:
        """Return explanations by label, for inputs with an old text that is still on disk."""
        wanted, reads, disk = self.inputs[unit.name], (unit.files, unit.links), Disk()
        now = fingerprint.inputs(state.sources, *reads, {}, key, disk)
        before = fingerprint.texts(state.sources, *reads, disk)
        sources = systemd.sources_to_be(state, self.disk, self.paths.units)
        after = fingerprint.texts(sources, *reads, self.disk)
        explained: dict[str, list[str]] = {}
        for label in now.keys() | after.keys():
            if known.get(label) == wanted.get(label) or known.get(label) != now.get(label):
                continue
            words = reasons.explain(label, before.get(label), after.get(label))
            if words is not None:
                explained[label] = words
        if known.get("runtime") != wanted.get("runtime"):
            # The loader is part of the runtime.
            explained["environment PYTHONPATH"] = []
        return explained

    def _has_left_queues(self, unit: Unit, known: Mapping[str, str]) -> bool:
        """Note how many tasks wait in queues of a broker that the inventory no longer names; return if any do."""
        if unit.redis is None or not unit.redis.queues:
            return False
        admin = f"user {unit.redis.user}"
        # Without its new rules, it may lack the right to look. Then the end of the run still does.
        if known.get(admin) == self.inputs[unit.name].get(admin):
            named = left_queues.named(redis_live.wanted_users(unit, self.disk), unit.redis.user)
            try:
                found = left_queues.waiting(unit.redis, named, self.host.talk)
                self.waiting[unit.name] = found
                self.report.waiting.update(found)
            except RedisError as error:
                self.unknown.append(
                    f"{unit.name} does not say whether {left_queues.TASKS_WAIT}: {error}. Run again to see it"
                )
        return bool(self.waiting.get(unit.name))

    def _can_change_live(self, unit: Unit, known: Mapping[str, str]) -> bool:
        """Return whether a running Redis can accept the change; otherwise it has to be restarted."""
        change = redis_live.change_between(known, self.inputs[unit.name], unit, self.disk)
        if change is None or unit.redis is None:
            return False
        # With another password, or a CA that did not sign the certificate which the server shows, we can't log in.
        doubtful = unit.redis.user in change.users or redis_live.READ_AGAIN & change.settings.keys()
        # In check mode the file still has the password from before. With it, a run adds the new one (`redis_prepare`).
        return not doubtful or any(
            redis_live.takes_password(login, self.host.talk)
            for login in redis_live.logins(unit, Disk())
        )


def _enabled(state: systemd.UnitState) -> bool:
    # "static" and "indirect" units have no [Install] section, so there is nothing to enable.
    return state.file_state in (
        "enabled",
        "enabled-runtime",
        "static",
        "indirect",
        "alias",
        "generated",
    )
