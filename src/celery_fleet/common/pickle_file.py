"""A dictionary in a file, in place of the module ``shelve`` that Celery uses. Standard library only.

What ``shelve`` does depends on how Python was built. On Debian 12 it saves nothing before it is closed. On Debian 13 it
can't be opened while the disk is full. After a kill or a power cut while it saves, its file may be damaged.
"""

from __future__ import annotations

import dbm
import io
import pickle
import shelve
from pathlib import Path
from typing import Any

from celery_fleet.common import json_file
from celery_fleet.common.errors import FleetError

#: Files of the databases of ``shelve``, beside the one with the name itself.
OF_SHELVE = (".db", ".dat", ".dir", ".bak", "-wal", "-shm")
# All pickles since protocol 2 begin with it, and no database of ``shelve`` does.
_PICKLE = b"\x80"


class UnreadableError(FleetError):
    """The file is there and can't be read. The message says why."""


class PickleFile(dict[str, Any]):
    """The content of the file, which Celery changes in place and saves by ``sync``."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self._path = path
        self._saved = False

    def sync(self) -> None:
        """Write everything to the disk. After a crash, the file has this content or the one before.

        Raises:
            OSError: It can't be written.
        """
        json_file.replace_bytes(self._path, pickle.dumps(dict(self)), 0o600, durable=True)
        if not self._saved:
            self._saved = True
            for suffix in OF_SHELVE:
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: Celery calls ``sync`` before."""


def read(path: Path, unpickler: type[pickle.Unpickler] = pickle.Unpickler) -> dict[str, Any]:
    """Return the content of a file, also of one that ``shelve`` has written; empty if there is none.

    Raises:
        UnreadableError: It is there and can't be read.
        Exception: It is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as exc:
        raise UnreadableError(f"{path} can't be read: {exc.strerror}") from exc
    if data.startswith(_PICKLE):
        return dict(unpickler(io.BytesIO(data)).load())
    if not data and dbm.whichdb(str(path)) is None:
        return {}
    with shelve.open(str(path), flag="r") as found:  # noqa: S301  # only the process's own user writes there
        return dict(found)
