"""Back up Redis: ``python3 -S -I redis_backup.py APP``, ExecStart= of <app>-backup.service.

The credential ``backup.json`` says what to do:

    {"format": 1, "app", "host", "flavor", "user", "password", "ca", "client": {"certificate", "key"},
     "instances": {"broker": {"host", "port"}, …}, "to", "command", "keep", "encrypt_for", "ssh_key", "ssh_known_hosts"}

Each instance gives a snapshot, which is checked, and encrypted if there is a key for that. All of them, with their
checksums, go to the target as one directory. Then older ones are removed. A backup ends before it fills the disk, which
it may share with Redis. What happened is in the file of :mod:`celery_fleet.common.backup_record`. A backup that fails,
or is ended by SIGTERM, leaves all earlier ones as they are; the exit status is 1. Only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # `python3 -I` runs this file without adding its directory to the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common import backup_record
from celery_fleet.common.backup_record import BackupRecord
from celery_fleet.common.redis_client import ClientError, Server
from celery_fleet.common.text import shown
from celery_fleet.system import redis_snapshot
from celery_fleet.system.backup_target import (
    SUMS,
    BackupTarget,
    CommandTarget,
    DirectoryTarget,
    RsyncTarget,
    TargetError,
    run,
)
from celery_fleet.system.redis_snapshot import SnapshotError

FORMAT = 1
USAGE = "usage: redis_backup.py APP"
SETUP = "backup.json"
#: Where Redis has its data.
DATA = Path("/var/lib/celery-fleet-redis")


class BackupEndedError(Exception):
    """systemd ends the backup: it takes too long, or its unit is stopped; the message is one line."""


_FAULTS = (OSError, SnapshotError, TargetError, BackupEndedError)


@dataclass(frozen=True)
class BackupPlaces:
    """Directories of a backup.

    Attributes:
        state: What this program keeps: its record, and the backup that it is making.
        runtime: In memory, and gone at its end: keys.
        credentials: The files that systemd handed over.
    """

    state: Path
    runtime: Path
    credentials: Path


@dataclass(frozen=True)
class BackupSetup:
    """The content of ``backup.json``; see this file's head."""

    app: str
    host: str
    flavor: str
    servers: Mapping[str, Server]
    to: str = ""
    command: tuple[str, ...] = ()
    keep: int = 1
    encrypt_for: str = ""
    ssh_key: str = ""
    ssh_known_hosts: str = ""


def read(places: BackupPlaces) -> BackupSetup:
    """Read the setup.

    Raises:
        OSError, ValueError, LookupError, TypeError: It is missing or not valid.
    """
    raw: Mapping[str, Any] = json.loads((places.credentials / SETUP).read_text(encoding="utf-8"))
    if raw["format"] != FORMAT:
        raise ValueError(f"its format is {raw['format']}, this runtime reads {FORMAT}")
    client = {
        name: str(places.credentials / Path(path).name) for name, path in raw["client"].items()
    }
    servers = {
        kind: Server(
            str(one["host"]),
            int(one["port"]),
            ca=raw["ca"] or None,
            user=raw["user"],
            password=raw["password"],
            certificate=client.get("certificate"),
            key=client.get("key"),
        )
        for kind, one in raw["instances"].items()
    }
    return BackupSetup(
        app=raw["app"],
        host=raw["host"],
        flavor=raw["flavor"],
        servers=servers,
        to=raw["to"],
        command=tuple(raw["command"]),
        keep=int(raw["keep"]),
        encrypt_for=raw["encrypt_for"],
        ssh_key=raw["ssh_key"],
        ssh_known_hosts=raw["ssh_known_hosts"],
    )


def target(setup: BackupSetup, places: BackupPlaces) -> BackupTarget:
    """Return where backups go. Files that ssh reads are written to the runtime directory.

    Raises:
        OSError: They can't be written.
    """
    if setup.command:
        about = {"CELERY_FLEET_APP": setup.app, "CELERY_FLEET_HOST": setup.host}
        return CommandTarget(setup.command, {**os.environ, **about})
    if setup.to.startswith("/"):
        return DirectoryTarget(Path(setup.to))
    shell: list[str] = []
    if "://" not in setup.to:
        key, known = places.runtime / "ssh_key", places.runtime / "known_hosts"
        _write(key, setup.ssh_key.rstrip("\n") + "\n")
        _write(known, setup.ssh_known_hosts.rstrip("\n") + "\n")
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(known),
            # The host's own list may name others.
            "GlobalKnownHostsFile": "/dev/null",
            "ConnectTimeout": "20",
        }
        shell = ["ssh", "-F", "none", "-i", str(key)]
        shell += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return RsyncTarget(setup.to, shell, places.runtime)


def back_up(setup: BackupSetup, places: BackupPlaces, now: float) -> BackupRecord:
    """Make a backup, store it, and return its record.

    Raises:
        OSError, SnapshotError, TargetError, BackupEndedError: It failed; the target is as before.
    """
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{setup.app}-{moment}"
    making = places.state / "making"
    # What a backup that was killed has left.
    shutil.rmtree(making, ignore_errors=True)
    backup = making / name
    backup.mkdir(mode=0o700, parents=True)
    try:
        size = sum(_snapshots(setup, places, backup).values())
        stored = target(setup, places)
        if _shares_the_disk(setup):
            made = sum(file.stat().st_size for file in backup.iterdir())
            redis_snapshot.need_room(Path(setup.to), made)
        stored.put(backup)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    try:
        for gone in stored.prune(setup.app, setup.keep, name):
            print(f"removed {gone}")
    except _FAULTS as error:
        # The backup itself is good.
        print(f"<4>older backups can't be removed: {shown(error)}")
    return BackupRecord(now, now, name, size)


def _snapshots(setup: BackupSetup, places: BackupPlaces, backup: Path) -> dict[str, int]:
    """Write the files of a backup, and return the sizes of the snapshots in bytes."""
    sums, sizes = [], {}
    for kind, server in setup.servers.items():
        path = backup / f"{kind}.rdb"
        try:
            sizes[kind] = redis_snapshot.take(server, path)
        except (OSError, ClientError) as error:
            why = getattr(error, "strerror", None) or error
            raise SnapshotError(f"{kind} {server.address}: {why}") from None
        keys = redis_snapshot.check(f"{setup.flavor}-check-rdb", path)
        print(f"{kind}: {keys} keys, {sizes[kind]} bytes")
        sums.append(f"{_checksum(path)}  {path.name}")
        if setup.encrypt_for:
            sums.append(f"{_checksum(_encrypt(setup.encrypt_for, places, path))}  {path.name}.gpg")
            path.unlink()
    _write(backup / SUMS, "".join(f"{line}\n" for line in sums))
    return sizes


def _encrypt(recipient: str, places: BackupPlaces, path: Path) -> Path:
    """Encrypt a file for the owner of an OpenPGP key, without a keyring; return the new file."""
    home, key, made = (
        places.runtime / "gnupg",
        places.runtime / "recipient.asc",
        Path(f"{path}.gpg"),
    )
    home.mkdir(mode=0o700, exist_ok=True)
    _write(key, recipient)
    redis_snapshot.need_room(path.parent, path.stat().st_size)
    words = ["gpg", "--batch", "--no-tty", "--quiet", "--homedir", str(home)]
    # What Redis writes is compressed where that helps.
    words += ["--compress-algo", "none", "--recipient-file", str(key), "--output", str(made)]
    run([*words, "--encrypt", str(path)], os.environ)
    return made


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(text)


def _end(*_: object) -> None:
    """Let a backup that has to end remove what it has begun."""
    raise BackupEndedError(
        "it was ended before it was done: it took longer than its unit's TimeoutStartSec, or was stopped"
    )


def main(argv: Sequence[str], places: BackupPlaces | None = None) -> int:
    """Make a backup of an application's Redis and return the exit status."""
    if len(argv) != 1:
        print(f"celery_fleet: {USAGE}", file=sys.stderr)
        return 2
    places = places or BackupPlaces(
        *(
            Path(os.environ.get(name, "/nonexistent"))
            for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY")
        )
    )
    record = places.state / backup_record.NAME
    last = BackupRecord(0.0)
    with suppress(OSError, ValueError):
        last = backup_record.read(record) or last
    now = time.time()
    try:
        setup = read(places)
        done = back_up(setup, places, now)
    except (*_FAULTS, ValueError, LookupError, TypeError) as error:
        done = replace(last, tried=now, error=shown(error) or type(error).__name__)
    try:
        backup_record.write(record, done)
    except OSError as error:
        print(f"<3>{record} can't be written: {error.strerror}", flush=True)
        return 1
    if done.error:
        print(f"<3>no backup: {done.error}", flush=True)
        return 1
    print(f"backed up to {done.name}", flush=True)
    _warn(setup)
    return 0


def _warn(setup: BackupSetup) -> None:
    """Say if a backup would be lost with the disk of Redis."""
    if _shares_the_disk(setup):
        print(f"<4>{setup.to} is on the same filesystem as Redis's data and is lost with it")


def _shares_the_disk(setup: BackupSetup) -> bool:
    """Return whether the target is a directory on the same filesystem as Redis's data."""
    try:
        return setup.to.startswith("/") and os.stat(setup.to).st_dev == os.stat(DATA).st_dev
    except OSError:
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
