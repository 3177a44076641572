"""Take a snapshot of a Redis instance as a replica gets it: an RDB file with the state of one moment.

`redis-cli --rdb` does the same, but does not check the server's name in its certificate. Only the standard library.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import BinaryIO

from celery_fleet.common import filesystem
from celery_fleet.common.redis_client import Client, ClientError, ProtocolError, Server

#: Seconds without a byte. While Redis prepares the snapshot it sends an empty line each second.
TIMEOUT = 60.0
#: What a backup leaves free on its disk; the larger one counts. With less, the health check `disk` is bad by its
#: default thresholds. On a full disk, Redis refuses tasks.
FREE_PERCENT, FREE_BYTES = 5, 250_000_000
_CHUNK = 1 << 20
_READ = re.compile(r"(\d+) keys read")


class SnapshotError(Exception):
    """A snapshot can't be used; the message is one line."""


def need_room(directory: Path, size: int = 0) -> None:
    """Check that so many more bytes in a directory leave enough free space on its disk.

    Raises:
        OSError, SnapshotError: They don't, or the free space is unknown.
    """
    free, usable = filesystem.space(os.statvfs(directory))
    reserve = max(usable * FREE_PERCENT // 100, FREE_BYTES)
    if free - size < reserve:
        needed = f", {size / 1e6:.0f} MB are needed" if size else ""
        raise SnapshotError(
            f"{free / 1e6:.0f} MB are free on the disk of {directory}{needed}, and "
            f"{reserve / 1e6:.0f} MB have to stay free for Redis: make room there"
        )


class SnapshotClient(Client):
    """A connection that asks for a snapshot, and for nothing after it."""

    def save(self, path: Path) -> int:
        """Write a snapshot to a new file, flush it to the disk and return its size in bytes.

        Raises:
            OSError, ClientError: Redis refused, or the connection was lost in the middle.
            SnapshotError: The disk is too full, or becomes so.
        """
        # Redis then streams the snapshot from memory instead of writing it to its own disk first.
        self.ask("REPLCONF", "capa", "eof")
        self.ask("REPLCONF", "rdb-only", "1")
        self._socket.sendall(self._packed(["SYNC"]))
        header = b"\n"
        while header == b"\n":
            header = self._stream.readline(self.longest)
        kind, rest = header[:1], header[1:].rstrip(b"\r\n")
        if kind == b"-":
            raise ClientError(rest.decode(errors="replace"))
        with open(path, "xb") as file:
            if kind == b"$" and rest.startswith(b"EOF:") and len(rest) == 44:
                self._until(rest.removeprefix(b"EOF:"), file, path.parent)
            elif kind == b"$" and rest.isdigit():
                self._exactly(int(rest), file, path.parent)
            elif not header:
                raise ConnectionError("the connection was closed")
            else:
                raise ProtocolError("the server that answers is not Redis")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _exactly(self, size: int, file: BinaryIO, directory: Path) -> None:
        while size:
            part = self._read(min(size, _CHUNK))
            need_room(directory)
            file.write(part)
            size -= len(part)

    def _until(self, mark: bytes, file: BinaryIO, directory: Path) -> None:
        """Copy until the mark, after which Redis sends nothing."""
        last = b""
        while True:
            last += self._some()
            need_room(directory)
            if last.endswith(mark):
                file.write(last[: -len(mark)])
                return
            file.write(last[: -len(mark)])
            last = last[-len(mark) :]

    def _some(self) -> bytes:
        part: bytes = self._stream.read1(_CHUNK)  # type: ignore[attr-defined]  # a buffered reader has it
        if not part:
            raise ConnectionError("the connection was closed in the middle of the snapshot")
        return part


def take(server: Server, path: Path) -> int:
    """Write a snapshot of an instance to a new file and return its size in bytes.

    Raises:
        OSError, ClientError, SnapshotError: See `SnapshotClient.save`.
    """
    # Before Redis has prepared one.
    need_room(path.parent)
    with SnapshotClient(server, TIMEOUT) as client:
        return client.save(path)


def check(program: str, path: Path) -> int:
    """Check a snapshot, with its checksum, and return how many keys it has.

    Args:
        program: `redis-check-rdb` or `valkey-check-rdb`.
        path: The snapshot.

    Raises:
        SnapshotError: It is damaged, or the program is missing.
    """
    try:
        done = subprocess.run(
            [program, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise SnapshotError(f"{program} can't be run: {error.strerror}") from None
    found = _READ.search(done.stdout)
    if done.returncode or not found:
        lines = done.stdout.strip().splitlines() or [f"status {done.returncode}"]
        raise SnapshotError(f"{program} finds {path.name} damaged: {lines[-1]}")
    return int(found[1])
