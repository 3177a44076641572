"""Prepares a running Redis for files that are about to be written, so that it can start with them at any time.

Runs on the host, inside the `reconcile` module, as root, before anything is written. Then the server can restart in
this run, in the next one, or at a reboot, and this run can log in to it:

- With `appendonly yes` a server only reads its append-only file when it starts, and with `no` only `dump.rdb`. So the
  running server first writes the file that it is going to read.
- The user with which runs log in also gets its new password. Its previous one is only in the file so far, and without
  it a run could not keep the other users' passwords.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from . import comparison, fingerprint, redis_live
from .desired_state import RedisAccess, Unit
from .fingerprint import Disk
from .host import Host
from .redis_client import RedisError
from .report import ReconcileError
from .systemd import UnitState

# What a server reads when it starts, by its `appendonly`.
_DATA = {"yes": "appendonlydir/appendonly.aof.manifest", "no": "dump.rdb"}
# While one of these is 1, the server loads its data or writes one of the files.
_BUSY = (
    "loading",
    "async_loading",
    "aof_rewrite_in_progress",
    "rdb_bgsave_in_progress",
)


class RedisPreparation:
    """Prepares one server.

    Args:
        host: The host of the server.
        unit: Its unit.
        state: The unit's state.
        wanted: The disk as it will be after the run.
    """

    def __init__(self, host: Host, unit: Unit, state: UnitState, wanted: Disk) -> None:
        self._host = host
        self._unit = unit
        self._state = state
        self._before = _settings(unit, Disk())
        self._after = _settings(unit, wanted)
        self._known, _ = comparison.started_with(unit.name, state.invocation, host.paths.records)
        self._runs = state.active in ("active", "reloading")

    def prepare(self, *, check: bool) -> None:
        """Prepare the server; in check mode only refuse what can't be prepared.

        Raises:
            ReconcileError: It would start without its data.
        """
        if self._runs and not check:
            self._teach()
        wanted = self._after.get("appendonly", "")
        running = (self._known or {}).get("setting appendonly", "")
        if wanted not in _DATA or (self._runs and (check or running == wanted)):
            return
        for access in self._logins() if self._runs else ():
            if redis_live.takes_password(access, self._host.talk):
                self._save(access, wanted)
                return
        before = running if running in _DATA else self._before.get("appendonly", "")
        self._refuse_to_lose(before, wanted)

    def _refuse_to_lose(self, before: str, wanted: str) -> None:
        """Refuse a start of a server that can't be prepared if it would ignore the data that it has.

        Args:
            before: The `appendonly` with which it has run; empty if that is not known.
            wanted: The `appendonly` with which it would start.
        """
        other = "no" if wanted == "yes" else "yes"
        directory = self._before.get("dir") or self._after.get("dir", "")
        has, has_other = (os.path.exists(f"{directory}/{_DATA[one]}") for one in (wanted, other))
        # If both are there, the one that it has used last is newer.
        would_be_empty = has_other and (before == other or not has)
        # A server that runs may write its data as it stops.
        if before == wanted or not (self._runs or would_be_empty):
            return
        unit, what = self._unit.name, "can't be asked" if self._runs else "does not run"
        variable = f"redis_{unit.removesuffix('.service').rpartition('-')[2]}_appendonly"
        raise ReconcileError(
            f"{unit} {what}, and would start without its data: with appendonly {wanted} it only reads {_DATA[wanted]}, "
            f"not {_DATA[other]}, in {directory}. Nothing was changed. Set {variable} to "
            f"{str(other == 'yes').lower()} and run again. When the server runs, a run can change it."
        )

    def _logins(self) -> list[RedisAccess]:
        """Return how to log in to the running server, which may still have its previous port and password."""
        port = (self._known or {}).get("setting tls-port") or self._before.get("tls-port", "")
        found = redis_live.logins(self._unit, Disk())
        return [replace(one, port=int(port)) for one in found] if port.isdigit() else found

    def _teach(self) -> None:
        """Let the user with which runs log in also use its new password, until `redis_live.finish`."""
        new, *others = self._logins()
        for access in others:
            if redis_live.takes_password(access, self._host.talk):
                self._note(redis_live.marks([access.user]))
                with suppress(RedisError):
                    self._host.talk(access, [["ACL", "SETUSER", access.user, f">{new.password}"]])

    def _note(self, further: Mapping[str, str]) -> None:
        """Add to the unit's record what is about to change in the server, in case this run ends early."""
        if self._known is not None:
            self._known.update(further)
            fingerprint.write_record(
                self._unit.name,
                self._state.invocation,
                self._known,
                directory=self._host.paths.records,
            )

    def _set(self, access: RedisAccess, name: str, *values: str) -> None:
        """Set a directive to these values one after another; the next run compares it again, also if this one ends."""
        self._note({f"setting {name}": fingerprint.UNSURE})
        self._host.talk(access, [["CONFIG", "SET", name, value] for value in values])

    def _save(self, access: RedisAccess, wanted: str) -> None:
        """Let the server write the file that it will read.

        Raises:
            ReconcileError: It can't.
        """
        try:
            found, before = self._wait(access), self._before.get("appendonly")
            # It says so from the beginning of the first rewrite on, even if that fails and it tries again.
            enabled = found.get("aof_enabled") == "1" and not (before == "no" and _is_stuck(found))
            running = "yes" if enabled else "no"
            if running == wanted == before:
                return
            begin, rewrites = int(time.time()), int(found.get("aof_rewrites", 0))
            if (running, wanted) == ("no", "yes"):
                # `no` ends what an earlier run has begun. Otherwise, it may wait an hour for its next try.
                self._set(access, "appendonly", "no", "yes")
            elif (running, wanted) == ("yes", "no"):
                self._host.talk(access, [["BGSAVE", "SCHEDULE"]])
            if "yes" in (running, wanted):
                self._wait(access, wanted, begin, rewrites)
            if (running, wanted) == ("yes", "no"):
                # It then also saves when it stops. While it can't save, it would refuse all writes.
                self._set(access, "save", self._after.get("save", ""))
        except RedisError as error:
            # Back to its file. Without the new one, it would otherwise go on trying to write it.
            if (self._before.get("appendonly"), wanted) == ("no", "yes"):
                with suppress(RedisError):
                    self._set(access, "appendonly", "no")
            raise ReconcileError(
                f"{self._unit.name} can't change to appendonly {wanted}: {error}. Its files were not changed, and the "
                f"next run tries again. Next, on this host: journalctl -u {self._unit.name} -n 100"
            ) from error

    def _wait(
        self, access: RedisAccess, wanted: str = "", begin: int = 0, rewrites: int = 0
    ) -> Mapping[str, str]:
        """Wait until the server is not busy, and has written what it reads with this `appendonly`.

        Args:
            access: How to log in to the server.
            wanted: The `appendonly`; empty to wait for no file.
            begin: The time since which it has to have written `dump.rdb`.
            rewrites: How many rewrites of the append-only file it had begun before.

        Raises:
            RedisError: It can't write it, or does not answer.
        """
        deadline = self._host.clock() + self._unit.timeout
        while True:
            [answer] = self._host.talk(access, [["INFO", "persistence"]])
            lines = (line.partition(":") for line in str(answer).splitlines())
            found = {name: value for name, colon, value in lines if colon}
            if wanted == "yes" and _has_failed(found, rewrites):
                raise RedisError(f"it did not write {_DATA[wanted]}")
            if any(found.get(name) == "1" for name in _BUSY):
                # Much data takes its time.
                deadline = self._host.clock() + self._unit.timeout
            elif _is_written(found, wanted, begin):
                return found
            if self._host.clock() > deadline:
                raise RedisError(f"it did not write {_DATA[wanted]}")
            self._host.sleep(0.2)


def _settings(unit: Unit, disk: Disk) -> dict[str, str]:
    """Return the directives of the server's file; empty for a Sentinel: its file has another name."""
    return fingerprint.directives("\n".join(redis_live.texts(unit, disk, "redis.conf")))


def _is_written(found: Mapping[str, str], wanted: str, begin: int) -> bool:
    if wanted == "yes":
        names = ("aof_enabled", "aof_rewrite_scheduled", "aof_last_bgrewrite_status")
        return [found.get(name) for name in names] == ["1", "0", "ok"]
    if wanted == "no":
        saved = int(found.get("rdb_last_save_time", 0))
        return found.get("rdb_last_bgsave_status") == "ok" and saved >= begin
    return True


def _is_stuck(found: Mapping[str, str]) -> bool:
    """Return whether a server waits to try again to write its append-only file."""
    names = ("aof_rewrite_scheduled", "aof_last_bgrewrite_status")
    return [found.get(name) for name in names] == ["1", "err"]


def _has_failed(found: Mapping[str, str], rewrites: int) -> bool:
    """Return whether a rewrite of the append-only file has failed since the server had begun this many."""
    ended = int(found.get("aof_rewrites", 0)) - int(found.get("aof_rewrite_in_progress", 0))
    return ended > rewrites and found.get("aof_last_bgrewrite_status") == "err"
