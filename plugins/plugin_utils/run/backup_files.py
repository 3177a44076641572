"""Reads a backup of Redis on the control node: a directory with `SHA256SUMS` and the snapshots that it lists."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TypedDict

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]((\w+)\.rdb)(\.gpg)?")


class BackupFile(TypedDict):
    """A snapshot: the kind of its instance (broker or results), its path, its checksum, its size in bytes."""

    kind: str
    path: str
    sha256: str
    size: int


def read(directory: Path) -> list[BackupFile]:
    """Return the snapshots of a backup, after a check of their checksums.

    Raises:
        UserError: It is no whole backup, or a file is damaged or still encrypted.
    """
    sums = directory / SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{directory} is not a backup: it has no {SUMS} that can be read. Nothing was changed. Copy a whole backup "
            "to this machine, a directory such as shop-20260102T030000Z, and name it: -e backup=PATH"
        ) from None
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
