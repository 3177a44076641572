"""Writes the files of an environment: all of them, or none."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn


class WriteError(Exception):
    """The environment could not be written; the text says why."""


@dataclass(frozen=True)
class GeneratedFile:
    """A file of the environment: its text and its permission bits."""

    text: str
    mode: int = 0o644


def write(
    directory: Path, files: Mapping[str, GeneratedFile], check: Callable[[Path], None]
) -> None:
    """Write a new directory.

    It is made beside its final place, under a name that Ansible and git ignore, and renamed when it is complete. An
    error, Ctrl-C and SIGTERM leave nothing. The next run with the same name removes what a killed run has left.

    Args:
        directory: The new directory; it must not exist yet.
        files: Path below it -> file.
        check: A function that is called with the complete directory before it is renamed, and raises to refuse it.

    Raises:
        WriteError: It already exists, another run is making it, or the file system refuses.
    """
    try:
        with _half_made(directory) as half:
            for name, file in files.items():
                _write(half / name, file)
            check(half)
            if os.path.lexists(directory):
                raise WriteError(f"{directory} already exists; nothing is ever overwritten")
            half.chmod(0o755)
            half.rename(directory)
    except OSError as error:
        raise WriteError(f"{error.filename or directory}: {error.strerror}") from error


@contextmanager
def _half_made(directory: Path) -> Iterator[Path]:
    """Make a temporary directory; at the end remove it unless it has been renamed."""
    half = directory.with_name(f".new-env-{directory.name}")
    try:
        half.mkdir(mode=0o700)
    except FileExistsError:
        with _locked(half):
            shutil.rmtree(half)
        half.mkdir(mode=0o700)
    with _locked(half), _ended_by_signals():
        try:
            yield half
        finally:
            if half.exists():
                shutil.rmtree(half)


@contextmanager
def _locked(half: Path) -> Iterator[None]:
    """Lock the directory, so that no other run makes it.

    Raises:
        WriteError: Another run has the lock.
    """
    descriptor = os.open(half, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = half.name.removeprefix(".new-env-")
            raise WriteError(
                f"another run of new-env is making {name}: wait until it ends"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn signals that would kill the process into an exception, so that the temporary directory is removed."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(path: Path, file: GeneratedFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file has its final permissions from the beginning, so others can't read a secret even for a moment.
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "w", encoding="utf-8"
    ) as stream:
        stream.write(file.text)
