"""A backup with pg_dump, and its restoration with pg_restore.

The password is in the environment of these two programs, which only their user can read. Their command lines, which
all users can read, do not contain it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The moment in UTC, so that names sort by it, and something by chance: two in one second are two files.
NAME = "marketplace_ops-{moment:%Y%m%dT%H%M%SZ}-{chance}.dump"
BACKUP = re.compile(r"marketplace_ops-\d{8}T\d{6}Z-[0-9a-f]{8}\.dump")
PARTIAL = ".partial-"
# Seconds; below the task's own limit, so that this error is the one reported.
TIMEOUT = 3000
# No process writes any more to a backup that was begun and is older than this, in seconds.
ABANDONED = 24 * 3600

# libpq's variables for what a DATABASE_URL may ask for. Anything else is refused rather than dropped: without its
# sslmode, a connection would be another one.
VARIABLES = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "gssencmode": "PGGSSENCMODE",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


class BackupError(Exception):
    """A backup could not be made or brought back; the text says why."""


def environment(database: Mapping[str, Any], name: str | None = None) -> dict[str, str]:
    """What libpq's programs need to reach Django's `database`, or the one called `name` on the same server."""
    if database["ENGINE"] != "django.db.backends.postgresql":
        raise BackupError("the database is not PostgreSQL: copy SQLite's file instead")
    options = dict(database.get("OPTIONS") or {})
    unknown = sorted(set(options) - set(VARIABLES))
    if unknown:
        raise BackupError(f"DATABASE_URL has {', '.join(unknown)}, for which libpq has no variable")
    found = {
        "PGHOST": database.get("HOST"),
        "PGPORT": database.get("PORT"),
        "PGUSER": database.get("USER"),
        "PGPASSWORD": database.get("PASSWORD"),
        "PGDATABASE": name or database.get("NAME"),
        **{VARIABLES[option]: value for option, value in options.items()},
    }
    return {variable: str(value) for variable, value in found.items() if value not in (None, "")}


def back_up(
    directory: Path, database: Mapping[str, Any], keep: int, now: datetime
) -> dict[str, Any]:
    """Write a backup of `database` into `directory`, whole or not at all, and keep the `keep` newest."""
    began = time.monotonic()
    reach = environment(database)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_abandoned(directory)
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=directory)
    except OSError as error:
        raise BackupError(f"{error.filename or directory}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            _run(
                [
                    "pg_dump",
                    "--format=custom",
                    # Another server has other users; who restores it owns it.
                    "--no-owner",
                    "--no-privileges",
                    "--no-password",
                    # In ms: if a table is locked, pg_dump reports it and does not wait all night.
                    "--lock-wait-timeout=60000",
                ],
                reach,
                file,
            )
            os.fsync(file.fileno())
        entries = _entries(Path(partial), reach)
        size, digest = Path(partial).stat().st_size, checksum(Path(partial))
        moment = now.astimezone(UTC)
        path = directory / NAME.format(moment=moment, chance=secrets.token_hex(4))
        # mkstemp made it with mode 0600.
        os.rename(partial, path)
        _sync(directory)
    finally:
        Path(partial).unlink(missing_ok=True)
    return {
        "path": str(path),
        "size": size,
        "sha256": digest,
        "entries": entries,
        "removed": _keep_newest(directory, keep),
        "seconds": round(time.monotonic() - began, 1),
    }


def restore(file: Path, database: Mapping[str, Any], name: str) -> int:
    """Bring the backup in `file` back into the database `name`, all of it or nothing; how many entries it has.

    That the database is empty is the caller's to know.
    """
    reach = environment(database, name)
    entries = _entries(file, reach)
    _run(
        [
            "pg_restore",
            f"--dbname={name}",
            "--single-transaction",
            "--exit-on-error",
            "--no-owner",
            "--no-privileges",
            "--no-password",
            str(file),
        ],
        reach,
    )
    return entries


def checksum(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(file: Path, reach: Mapping[str, str]) -> int:
    """How many entries the backup's table of contents has; pg_restore reads it, so it is one."""
    listed = _run(["pg_restore", "--list", str(file)], reach)
    return sum(1 for line in listed.splitlines() if line and not line.startswith(";"))


def _run(words: list[str], reach: Mapping[str, str], output: Any = subprocess.PIPE) -> str:
    # None of the application's environment, which has its other secrets, and no PG variable of the user who started
    # this process.
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    try:
        done = subprocess.run(
            words,
            env={**kept, **reach},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise BackupError(
            f"{words[0]} is not installed on this host: it is part of Debian's postgresql-client"
        ) from None
    except subprocess.TimeoutExpired:
        raise BackupError(f"{words[0]} took longer than {TIMEOUT} s and was ended") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        raise BackupError(f"{words[0]} failed with status {done.returncode}: {said}")
    return (done.stdout or b"").decode(errors="replace")


def _keep_newest(directory: Path, keep: int) -> list[str]:
    backups = sorted(path.name for path in directory.iterdir() if BACKUP.fullmatch(path.name))
    old = backups[:-keep]
    for name in old:
        (directory / name).unlink(missing_ok=True)
    return old


def _drop_abandoned(directory: Path) -> None:
    for path in directory.glob(f"{PARTIAL}*"):
        # Another backup's, which may get its name just now.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
