"""Keeps files on the control node that runs make and later runs may need: packed sources and wheels."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

#: Seconds to keep a file after the last run that used it; longer than any run takes.
KEPT = 7 * 24 * 3600.0


def directory(name: str) -> Path:
    """Return one of the cache's directories, of the user who runs Ansible; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "celery-fleet" / name


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Explain what to do if the cache can't be written, such as in a pipeline without a home directory."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache of the control node, {path}, can't be used ({error.strerror}). Set the environment variable "
            "XDG_CACHE_HOME to a directory that only the user who runs Ansible can write to, outside of the source."
        ) from None


def make(path: Path) -> Path:
    """Create a directory that no other user can read.

    Raises:
        UserError: It can't be made.
    """
    with _writing(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def keep(path: Path, content: bytes) -> None:
    """Write a file if it is missing or cut off, and remove those that no run has used for a long time.

    Raises:
        UserError: It can't be written.
    """
    with _writing(path.parent):
        if not used(path) or path.stat().st_size != len(content):
            with tempfile.NamedTemporaryFile(dir=make(path.parent), delete=False) as stream:
                stream.write(content)
                stream.flush()
                # A power loss must not leave a name without content.
                os.fsync(stream.fileno())
            os.replace(stream.name, path)
        sweep(path.parent)


def used(path: Path) -> bool:
    """Note that a run uses a file; return whether it is there.

    Raises:
        UserError: It belongs to another user.
    """
    with _writing(path.parent):
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
    return True


def sweep(path: Path) -> None:
    """Remove the files of a directory that no run has used for a long time."""
    for other in path.iterdir():
        # Another run may remove it first.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - other.stat().st_mtime > KEPT:
                other.unlink()
