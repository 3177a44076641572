"""Restores one Redis instance from a snapshot, in steps that a later run can finish.

Runs on the host, inside the `redis_restore` module, as root. The snapshot and a note of what was done are beside the
instance's data, in `<instance>.restore`, until all instances are restored.

Everything that needs room on the disk is done while the instance still serves. All of it travels with the module. So
it is a single file: another one would only add its imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import mounts
from ..errors import UserError
from ..reconcile import systemd
from ..reconcile.desired_state import RedisAccess
from ..reconcile.redis_client import RedisError, Talk, talk
from . import data_directory

DATA = "/var/lib/celery-fleet-redis"
SNAPSHOT = "snapshot.rdb"
_KEYS = re.compile(r"(\d+) keys read")
_APPENDONLY = re.compile("^appendonly (yes|no)$", re.MULTILINE)
OVERWRITE = "redis_restore_overwrite"
# Seconds between two looks at a unit that starts.
_LOOK = 0.5


@dataclass(frozen=True)
class RestoredInstance:
    """The instance to restore.

    Attributes:
        name: Its name, such as `shop-broker`.
        sha256: Checksum of the snapshot.
        size: The snapshot's size in bytes.
        appendonly: Whether it writes an append-only file.
        flavor: `redis` or `valkey`, also the Unix user that owns its data.
        timeout: Seconds until it has to serve.
        access: A login that may ask for INFO.
        config: Path of its redis.conf, as it was deployed.
    """

    name: str
    sha256: str
    size: int
    appendonly: bool
    flavor: str
    timeout: float
    access: RedisAccess
    config: str

    @property
    def unit(self) -> str:
        """Return the name of its unit."""
        return f"redis@{self.name}.service"


@dataclass
class RestoreHost:
    """The host; tests replace its parts.

    Attributes:
        data: The directory with the data of all instances.
        run: Runs a command.
        talk: Asks Redis.
        mounts: Real paths at which something is mounted.
        free: Returns how many bytes are free in a directory.
    """

    data: Path = Path(DATA)
    run: systemd.Runner = systemd.run
    talk: Talk = talk
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    owner: Callable[[Path, str], None] = field(
        default=lambda path, user: shutil.chown(path, user, user)
    )
    mounts: frozenset[str] = field(default_factory=mounts.mount_points)
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free


class Restoration:
    """The restore of one instance."""

    def __init__(self, instance: RestoredInstance, host: RestoreHost) -> None:
        self._instance = instance
        self._host = host
        self._own = host.data / instance.name
        self._staging = host.data / f"{instance.name}.restore"
        self._note = self._staging / "note.json"
        # The new data directory, if it is complete.
        self._fresh = self._staging / f"data-{instance.sha256[:16]}"

    def check(self, overwrite: bool) -> dict[str, Any]:
        """Return `state` and how many `keys` the snapshot has; change nothing.

        The state is `due`, `replaced` if the data was replaced and not loaded yet, or `done`.

        Args:
            overwrite: Whether the data that is there may be replaced.

        Raises:
            UserError: The snapshot can't be used, or the instance has data, or not all data of its primary, or its
                directory can't be replaced.
        """
        note = self._read()
        if note.get("step") == "done":
            return {"state": "done", "keys": note["keys"], "kept": note["kept"]}
        if note.get("step") != "replaced":
            self._refuse_place()
        keys = self._keys()
        # A run that has begun has refused or accepted this already.
        if not note:
            self._refuse_settings()
            self._refuse_data(overwrite)
        return {
            "state": "replaced" if note.get("step") == "replaced" else "due",
            "keys": keys,
            "kept": "",
        }

    @property
    def begun(self) -> bool:
        """Return whether a restore, perhaps of another backup, has begun and was not finished."""
        return self._note.exists()

    def missing(self) -> int:
        """Return how many bytes the snapshot and the new data directory still need."""
        snapshot = self._staging / SNAPSHOT
        staged = snapshot.is_file() and snapshot.stat().st_size == self._instance.size
        made = self._fresh.exists() or self._read().get("step") in ("replaced", "done")
        return self._instance.size * ((not staged) + (not made))

    def prepare(self) -> None:
        """Make the new data directory of an instance that is due, if an earlier step has not made it."""
        if self._fresh.exists():
            return
        for left in self._staging.glob("data*"):
            shutil.rmtree(left)
        unfinished = self._staging / "data.new"
        data_directory.make(unfinished, self._staging / SNAPSHOT, self._instance.appendonly)
        os.rename(unfinished, self._fresh)

    def begin(self, overwrite: bool) -> dict[str, Any]:
        """Note that the data is going to be replaced, and return what `check` does.

        What follows may leave the instance stopped, and the next run then accepts that.

        Raises:
            UserError: See `check`.
        """
        found = self.check(overwrite)
        if found["state"] == "due":
            self.prepare()
            self._write(
                {
                    "sha256": self._instance.sha256,
                    "step": "begun",
                    "keys": found["keys"],
                    "kept": "",
                }
            )
        return found

    def refuse_replica(self) -> None:
        """Refuse an instance that keeps its data and has its primary on another host, while another one is still due.

        Raises:
            UserError: It is such a replica.
        """
        if self._role().get("role") == "slave":
            raise UserError(
                f"{self._instance.unit} keeps its data, and another host is its primary, which the Sentinels would "
                "forget. Nothing was changed. Make this host the primary (docs/redis.md), then run the same command "
                "again."
            )

    def restore(self, overwrite: bool) -> dict[str, Any]:
        """Replace the instance's data by the snapshot, start it, and return what it has loaded.

        Raises:
            UserError: See `check`; or the instance does not start, or has not loaded everything.
        """
        found = self.begin(overwrite)
        if found["state"] == "done":
            return {**found, "changed": False}
        note = self._read()
        if note["step"] == "begun":
            self._command("stop")
            # Otherwise earlier restarts would count as those of this start.
            self._host.run(["systemctl", "reset-failed", self._instance.unit])
            note = {**note, "step": "replaced", "kept": self._replace()}
            self._write(note)
        self._command("start", "--no-block")
        self._wait(note["kept"])
        loaded = self._loaded(found["keys"], note["kept"])
        self._write({**note, "step": "done"})
        return {"state": "done", "kept": note["kept"], "changed": True, **loaded}

    def finish(self) -> bool:
        """Remove the snapshot and the note; return whether they were there."""
        there = self._staging.exists()
        shutil.rmtree(self._staging, ignore_errors=True)
        return there

    def _read(self) -> dict[str, Any]:
        """Return the note of an earlier run for the same snapshot; empty if there is none."""
        try:
            found: dict[str, Any] = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return {}
        return found if found.get("sha256") == self._instance.sha256 else {}

    def _write(self, note: dict[str, Any]) -> None:
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps(note) + "\n")
        os.replace(fresh, self._note)

    def _keys(self) -> int:
        """Return how many keys the snapshot has.

        Raises:
            UserError: It is damaged, or this server can't read it.
        """
        path = self._staging / SNAPSHOT
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._instance.sha256:
            raise UserError(
                f"{path} does not have the backup's checksum. Nothing was changed; run the same command again, which "
                "copies it again."
            )
        program = f"{self._instance.flavor}-check-rdb"
        done = self._host.run([program, str(path)])
        keys = _KEYS.search(done.output)
        if done.returncode or not keys:
            last = (done.output.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise UserError(
                f"{program} refuses the snapshot for {self._instance.name}: {last}. Nothing was changed; choose "
                "another backup. A backup of a newer server, or of the other flavour, can't be read by this one."
            )
        return int(keys[1])

    def _refuse_place(self) -> None:
        """Refuse a data directory that can't be renamed together with its content.

        Raises:
            UserError: It is a mount, or a link to another place.
        """
        kind = "a mount" if mounts.lies_at(str(self._own), self._host.mounts) else ""
        kind = "a link" if self._own.is_symlink() else kind
        if kind:
            raise UserError(
                f"{self._own} is {kind}, so a restore can't put another directory in its place. Nothing was changed. "
                f"Stop {self._instance.unit}, make it a plain directory with the same content, and run the same "
                f"command again. For Redis's data on a disk of its own, mount the disk at {self._host.data}."
            )

    def _refuse_settings(self) -> None:
        """Refuse an instance that was deployed with another `appendonly`: it would ignore the new data.

        Raises:
            UserError: It was.
        """
        path = Path(self._instance.config)
        deployed = _APPENDONLY.search(path.read_text()) if path.is_file() else None
        wanted = "yes" if self._instance.appendonly else "no"
        if deployed and deployed[1] != wanted:
            raise UserError(
                f"{self._instance.unit} was deployed with `appendonly {deployed[1]}`, but the inventory has {wanted}, "
                "so it would ignore the restored data. Nothing was changed. Run site.yml, then the same command again."
            )

    def _refuse_data(self, overwrite: bool) -> None:
        """Refuse an instance that has data, or that lacks data of its primary.

        Raises:
            UserError: It has some, or it is not known.
        """
        unit = self._instance.unit
        held = ""
        about = self._role()
        if about.get("role") != "slave" and (primary := self._other_primary()):
            raise UserError(
                f"The Sentinels name {primary} as the primary, but {unit} is not its replica. The restore would "
                "replace that primary's data without keeping it. Nothing was changed. Start the unit, and run the same "
                "command again when `celery-fleet health` finds all replicas."
            )
        if about.get("role") == "slave" and about.get("master_link_status") != "up":
            raise UserError(
                f"{unit} has not copied the data of its primary, which the restore would replace without keeping it. "
                "Nothing was changed. Run the same command again when `celery-fleet health` finds all replicas."
            )
        if overwrite:
            return
        if self._state().active == "active":
            keys = self._ask("DBSIZE")
            if keys:
                held = f"{unit} has data ({keys} keys)"
        elif self._own.is_dir() and any(self._own.iterdir()):
            held = f"{unit} does not run, and there is data in {self._own}"
        if held:
            raise UserError(
                f"{held}. Nothing was changed. To replace it, add -e {OVERWRITE}=true; the data is then kept in a "
                f"directory beside {self._own}."
            )

    def _replace(self) -> str:
        """Put the new data directory in place; return where the previous one is now, if it had data."""
        kept = ""
        for path in (self._fresh, *self._fresh.rglob("*")):
            self._host.owner(path, self._instance.flavor)
            data_directory.flush(path)
        if self._own.exists():
            if any(self._own.iterdir()):
                moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._host.now()))
                kept = str(self._host.data / f"{self._instance.name}.before-{moment}")
                os.rename(self._own, kept)
            else:
                self._own.rmdir()
        os.rename(self._fresh, self._own)
        data_directory.flush(self._host.data)
        return kept

    def _wait(self, kept: str) -> None:
        """Wait until the instance serves.

        Raises:
            UserError: It does not.
        """
        end = self._host.clock() + self._instance.timeout
        while (state := self._state()).active != "active":
            crashed = state.restarts > systemd.RESTARTS_TOLERATED
            if crashed or state.active == "failed" or self._host.clock() >= end:
                raise UserError(
                    f"{self._instance.unit} does not serve after the restore: it is {state.described}. "
                    f"journalctl -u {self._instance.unit} says why; then run the same command again.{_way_back(kept)}"
                )
            self._host.sleep(_LOOK)

    def _loaded(self, keys: int, kept: str) -> dict[str, int]:
        """Return how many keys the instance has loaded, and how many had expired.

        Raises:
            UserError: These are not all.
        """
        about = self._information("persistence")
        loaded, expired = (
            int(about.get(f"rdb_last_load_keys_{what}", 0)) for what in ("loaded", "expired")
        )
        if loaded + expired != keys:
            raise UserError(
                f"{self._instance.unit} has loaded {loaded} keys and dropped {expired} expired ones, but the snapshot "
                f"has {keys}. journalctl -u {self._instance.unit} says why.{_way_back(kept)}"
            )
        return {"keys": keys, "loaded": loaded, "expired": expired}

    def _information(self, section: str) -> dict[str, str]:
        lines = (line.partition(":") for line in str(self._ask("INFO", section)).splitlines())
        return {name: value for name, colon, value in lines if colon}

    def _role(self) -> dict[str, str]:
        """Return what a running server with replicas says of its replication; empty without replicas."""
        if not self._instance.access.primary or self._state().active != "active":
            return {}
        return self._information("replication")

    def _other_primary(self) -> str:
        """Return the host that a Sentinel names as the primary, if it is another one; empty otherwise."""
        access = self._instance.access
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", access.primary)
        for place in access.sentinels:
            with contextlib.suppress(RedisError):
                sentinel = replace(access, host=place.host, port=place.port)
                (named,) = self._host.talk(sentinel, [command])
                if isinstance(named, list) and named[0] != access.host:
                    return str(named[0])
        return ""

    def _ask(self, *command: str) -> object:
        try:
            (answer,) = self._host.talk(self._instance.access, [command])
        except RedisError as error:
            raise UserError(f"{error}. Run the same command again when it answers.") from None
        return answer

    def _state(self) -> systemd.UnitState:
        return systemd.show([self._instance.unit], self._host.run)[self._instance.unit]

    def _command(self, verb: str, *options: str) -> None:
        done = self._host.run(["systemctl", verb, *options, self._instance.unit])
        if done.returncode:
            raise UserError(
                f"systemctl {verb} {self._instance.unit} failed: {done.output.strip()}. Fix that and run the same "
                "command again."
            )


def _way_back(kept: str) -> str:
    return f" The data from before the restore is in {kept}." if kept else ""
