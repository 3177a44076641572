"""Starts, restarts and reloads units, and changes the settings of a running Redis.

Runs on the host, inside the `reconcile` module, as root. systemctl is called with --no-block, then polled until the
units run: even if this run is killed, systemd finishes what was begun.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from . import comparison, fingerprint, redis_live, redis_roles, systemd
from .copies import Copies
from .desired_state import Unit
from .fingerprint import Disk
from .host import Host
from .redis_client import RedisError
from .report import ReconcileError

# Additional seconds for a unit to stop, beyond systemd's own timeout.
_STOP_SLACK = 15.0

# Seconds without replication before Sentinels are asked why: one may hang.
_REPLICATION_PATIENCE = 5.0

# A warning about a unit, with an error.
_ONLY_NEW = "{} only takes new passwords since its restart: {}"

# Another one, with a host.
_UNTRUSTED = (
    "{} has not waited for its replication: the Sentinel on {} shows a certificate that is not valid here"
    " until it restarts, so other servers may, too"
)


class UnitActions:
    """Acts on units; each method raises ReconcileError if a unit fails."""

    def __init__(
        self,
        host: Host,
        disk: Disk,
        inputs: Mapping[str, Mapping[str, str]],
        *,
        revoke: bool = False,
    ) -> None:
        """Prepare to act on units.

        Args:
            host: The host of the units.
            disk: Its disk.
            inputs: For each unit that follows changes, the fingerprints of what it would be started with now.
            revoke: Whether Redis's users lose their previous rights and passwords at once.
        """
        self.revoke = revoke
        self.host = host
        self.disk = disk
        self.inputs = inputs
        self.records = host.paths.records
        #: What did not work and did not prevent the rest.
        self.warnings: list[str] = []

    def bring_up(self, units: Sequence[Unit], verb: str) -> None:
        """Start or restart units together (`verb`) and wait for all of them."""
        if not units:
            return
        rights = {}
        if verb == "restart":
            rights = {unit.name: self._rights(unit) for unit in units}
            self._hand_over(units)
        names = [unit.name for unit in units]
        before = self.host.show(names)
        # Don't wait here: if this run is killed, systemd still finishes what was begun.
        self.host.command(["systemctl", verb, "--no-block", *names], *units)
        self._wait(units, before)
        for unit in units:
            self._keep_rights(unit, rights.get(unit.name, {}))

    def reload(self, unit: Unit) -> None:
        """Make a running daemon read its files again."""
        state = self.host.show([unit.name])[unit.name]
        known, _ = comparison.started_with(unit.name, state.invocation, self.records)
        self._mark_unsure(unit.name, state.invocation, known or {})
        self.host.reload(unit, state)
        self._record(unit.name, state.invocation)

    def set_live(self, unit: Unit, *, finish: bool, waiting: Collection[str] = ()) -> bool:
        """Set settings and users in a running Redis.

        Args:
            unit: The server's unit.
            finish: Limit users to their rules; otherwise they also keep their previous rights.
            waiting: Queues that the operator may still look at and empty then, although they are not in the rules.

        Returns:
            Whether there was anything to set.
        """
        access = unit.redis
        state = self.host.show([unit.name])[unit.name]
        known, _ = comparison.started_with(unit.name, state.invocation, self.records)
        inputs, wider = redis_live.split(known or {})
        change = redis_live.change_between(inputs, self.inputs[unit.name], unit, self.disk)
        if access is None or known is None or change is None:
            raise ReconcileError(f"{unit.name} was restarted in the meantime; run again")
        # An operator who may empty a queue has no other password than in the rules.
        ends = (
            self.revoke and not redis_live.marks(wider, redis_live.EMPTY).items() <= known.items()
        )
        if change == redis_live.LiveChange() and not (finish or ends):
            return False
        rules = redis_live.wanted_users(unit, self.disk)
        self._mark_unsure(unit.name, state.invocation, known)
        try:
            if change.key:
                redis_live.stage(change.key, access.staged_key)
            if finish:
                redis_live.finish(access, change, wider, rules, self.host.talk)
                wider = redis_live.leave(access, waiting, rules, self.host.talk)
            elif self.revoke:
                wider = list(redis_live.revoke(access, change, wider, rules, self.host.talk))
            else:
                wider += redis_live.apply(access, change, rules, self.host.talk)
        except RedisError as error:
            raise ReconcileError(
                f"{unit.name} did not accept its new settings while running: {error}\n"
                f"They are on disk, and the next run tries again. Next, on this host: journalctl -u {unit.name} -n 100"
            ) from error
        until = redis_live.EMPTY if finish else "finished"
        self._record(unit.name, state.invocation, redis_live.marks(wider, until))
        return True

    def _rights(self, unit: Unit) -> Mapping[str, Mapping[str, Any]]:
        """Return what a server says of the users that have other rules in its file by now."""
        state = self.host.show([unit.name])[unit.name]
        known, _ = comparison.started_with(unit.name, state.invocation, self.records)
        inputs, wider = redis_live.split(known or {})
        wanted = self.inputs[unit.name]
        labels = [label for label in inputs if inputs[label] != wanted.get(label)]
        names = {name for kind, _, name in (one.partition(" ") for one in labels) if kind == "user"}
        names.update(wider)
        if known is None:
            # Any of them may have changed.
            names = redis_live.wanted_users(unit, self.disk).keys() - {"default"}
        if self.revoke:
            names &= redis_live.SERVERS
        try:
            if unit.redis:
                return redis_live.rights(unit.redis, sorted(names), self.host.talk)
        except RedisError as error:
            self.warnings.append(_ONLY_NEW.format(unit.name, error))
        return {}

    def _keep_rights(self, unit: Unit, before: Mapping[str, Mapping[str, Any]]) -> None:
        """Give users of a restarted server what they had in addition, until all their processes have restarted."""
        if unit.redis is None or not before:
            return
        rules = redis_live.wanted_users(unit, self.disk)
        before = {name: rights for name, rights in before.items() if name in rules}
        state = self.host.show([unit.name])[unit.name]
        # If this run ends in between, the next one has to take these rights back.
        self._record(unit.name, state.invocation, redis_live.marks(before))
        try:
            redis_live.keep(unit.redis, before, rules, self.host.talk)
        except RedisError as error:
            self.warnings.append(_ONLY_NEW.format(unit.name, error))

    # -- replicated Redis ----------------------------------------------------------------------------------

    def _hand_over(self, units: Sequence[Unit]) -> None:
        """Let a replica become the primary before a primary restarts."""
        for unit in units:
            if unit.redis and unit.redis.sentinels:
                try:
                    primary = redis_roles.hand_over(
                        unit.redis, self.host.talk, self.host.clock, self.host.sleep
                    )
                    if primary and unit.redis.role_file:
                        redis_live.put(unit.redis.role_file, redis_roles.role(primary), 0o600)
                except (RedisError, OSError) as error:
                    # It restarts as well. Its Sentinels replace it if that takes long.
                    self.warnings.append(
                        f"{unit.name} was not moved to a replica before its restart: {error}"
                    )

    def await_replication(self, unit: Unit) -> None:
        """Wait until a replica has its primary's data, or a primary has a replica.

        If certificates have expired, or their authority was replaced at once, a restarted server can't replicate with
        those that still have to restart. Then this returns, so that their turns come.
        """
        access = unit.redis
        if access is None or not access.sentinels:
            return
        deadline = self.host.clock() + unit.timeout
        patience = self.host.clock() + min(_REPLICATION_PATIENCE, unit.timeout / 2)
        found: Mapping[str, str] = {}
        copies = Copies()
        while not redis_roles.is_connected(found, max(1, access.replicas)):
            now = self.host.clock()
            if found and now > patience:
                patience = math.inf
                if host := redis_roles.untrusted(access, self.host.talk):
                    self.warnings.append(_UNTRUSTED.format(unit.name, host))
                    return
                deadline += self.host.clock() - now
            # A copy of much data takes its time.
            if copies.goes_on(found):
                deadline = self.host.clock() + unit.timeout
            if self.host.clock() > deadline:
                state = self.host.show([unit.name])[unit.name]
                what = f"has no connection to its {'primary' if found.get('role') == 'slave' else 'replicas'}"
                raise self.host.failure(unit, state, what)
            with contextlib.suppress(RedisError):
                found = redis_roles.replication(access, self.host.talk)
            self.host.sleep(0.2)

    # -- waiting -------------------------------------------------------------------------------------------

    def _wait(self, units: Sequence[Unit], before: Mapping[str, systemd.UnitState]) -> None:
        """Wait until the units run again. systemd limits the time that an old process takes to drain."""
        waiting = {unit.name: unit for unit in units}
        begin = self.host.clock()
        deadlines = {unit.name: begin + unit.timeout for unit in units}
        # systemd does not reset its counter if a crash loop is interrupted.
        restarts: dict[str, int] = {}
        while True:
            for name, state in self.host.show(list(waiting)).items():
                unit, old = waiting[name], before[name]
                fresh = state.invocation != old.invocation or not old.invocation
                counted = restarts.setdefault(name, state.restarts) if fresh else old.restarts
                if fresh and state.active == "active":
                    self._ensure_record(unit, state)
                    del waiting[name]
                    continue
                if not fresh and (state.job or state.active == "deactivating"):
                    deadlines[name] = self.host.clock() + unit.timeout + _STOP_SLACK
                tries = state.restarts - counted
                self._give_up(unit, state, tries, fresh, self.host.clock() > deadlines[name])
            if not waiting:
                return
            self.host.sleep(0.2)

    def _give_up(
        self,
        unit: Unit,
        state: systemd.UnitState,
        tries: int,
        fresh: bool,
        late: bool,
    ) -> None:
        """Raise an error if a unit will not run."""
        hopeless = fresh and systemd.hopeless(state.active, state.sub, state.exit_status)
        if tries > systemd.RESTARTS_TOLERATED or hopeless:
            raise self.host.failure(unit, state, "does not start")
        if late:
            raise self.host.failure(unit, state, f"was not active within {unit.timeout:.0f} s")

    # -- records -------------------------------------------------------------------------------------------

    def _ensure_record(self, unit: Unit, state: systemd.UnitState) -> None:
        """Write the record of a unit that has no recorder, such as one of Debian's."""
        if unit.name not in self.inputs:
            return
        record = fingerprint.read_object(f"{self.records}/{unit.name}.json")
        if record.get("invocation") != state.invocation:
            self._record(unit.name, state.invocation)

    def _mark_unsure(self, name: str, invocation: str, known: Mapping[str, str]) -> None:
        """Record in advance that the process may have taken over what differs.

        If this run ends in between, the next one repeats it, even if the change is reverted first.
        """
        wanted = self.inputs[name]
        differing = [
            label for label in known.keys() | wanted.keys() if known.get(label) != wanted.get(label)
        ]
        inputs = {**known, **dict.fromkeys(differing, fingerprint.UNSURE)}
        fingerprint.write_record(name, invocation, inputs, directory=self.records)

    def _record(self, name: str, invocation: str, further: Mapping[str, str] | None = None) -> None:
        """Record what was passed to the running process."""
        inputs = {**self.inputs[name], **(further or {})}
        fingerprint.write_record(name, invocation, inputs, directory=self.records)
