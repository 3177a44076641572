"""Reads a backup of Redis on the control node: a directory with `SHA256SUMS` and the snapshots that it lists."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TypedDict

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

SUMS = "SHA256SUMS"
# The backup program names them, in celery_fleet/system/redis_backup.py.
_NAME = re.compile(r"(?P<app>.+)-(?P<time>\d{8}T\d{6}Z)")
_LINE = re.compile(r"([0-9a-f]{64}) [ *]((\w+)\.rdb)(\.gpg)?")


class BackupFile(TypedDict):
    """A snapshot: the kind of its instance (broker or results), its path, its checksum, its size in bytes."""

    kind: str
    path: str
    sha256: str
    size: int


def read(directory: Path, app: str) -> list[BackupFile]:
    """Return the snapshots of a backup, after a check of their checksums.

    Args:
        directory: The backup.
        app: Name of the application that it must be of.

    Raises:
        UserError: It is no whole backup, or of another application, or a file is damaged or still encrypted.
    """
    sums = directory / SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{directory} is not a backup: it has no {SUMS} that can be read. Nothing was changed. Copy a whole backup "
            "to this machine, a directory such as shop-20260102T030000Z, and name it: -e backup=PATH"
        ) from None
    _refuse_others(directory, app)
    found: list[BackupFile] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(f"{sums} has a line of another form: choose another backup")
        if not match[4]:
            found.append(_snapshot(directory / match[2], match[3], match[1]))
    if not found:
        raise UserError(f"{sums} lists no snapshot: choose another backup")
    return found


def _refuse_others(directory: Path, app: str) -> None:
    """Refuse a backup of another application. Nothing in it says which one it is of, only the directory's name."""
    path = directory.resolve()
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise UserError(
            f"{path} does not have the name of a backup of {app}, {app}-TIME, such as {app}-20260102T030000Z. Nothing "
            "was changed. Give the directory the name again that it had when it was made. If it is of another "
            f"application and {app} is to get that data, rename it to {app}-20260102T030000Z"
        )
    if named["app"] != app:
        raise UserError(
            f"{path} is a backup of {named['app']}, but this inventory's application is {app}. Nothing was changed. "
            f"Choose a backup of {app}. If {app} is to get the data of {named['app']}, rename the directory to "
            f"{app}-{named['time']} and name it in the command"
        )


def _snapshot(path: Path, kind: str, sha256: str) -> BackupFile:
    if not path.is_file():
        encrypted = path.with_name(f"{path.name}.gpg")
        if encrypted.is_file():
            raise UserError(
                f"{encrypted} is encrypted. Nothing was changed. Decrypt the backup first, where the private key is: "
                f"gpg --decrypt-files {path.parent}/*.gpg"
            )
        raise UserError(
            f"{path} is missing. Nothing was changed. Copy the whole backup again, or choose another one"
        )
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise UserError(
                f"{path} is damaged: its checksum is not that in {SUMS}. Nothing was changed. Copy it again, or choose "
                "another backup"
            )
    return {
        "kind": kind,
        "path": str(path.absolute()),
        "sha256": sha256,
        "size": path.stat().st_size,
    }
