"""Puts the files of an environment into their place: all of them, or none."""

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
    """Why the environment could not be written, in words for the person who wanted it."""


@dataclass(frozen=True)
class File:
    """A file of the environment: its text, and the permission bits that it gets."""

    text: str
    mode: int = 0o644


def write(directory: Path, files: Mapping[str, File], check: Callable[[Path], None]) -> None:
    """Write a new directory.

    It is made beside its place, under a name that Ansible and git pass over, and gets its own when it is complete: an
    error, Ctrl-C and SIGTERM leave nothing. What a killed run has left is removed by the next one of the same name.

    Args:
        directory: What is to be there afterwards; it must not be there yet.
        files: Path below it -> file.
        check: Called with the complete directory before it gets its name; raises where it is not good.

    Raises:
        WriteError: It is there already, another run makes it, or the file system refuses.
    """
    try:
        with _half_made(directory) as half:
            for name, file in files.items():
                _write(half / name, file)
            check(half)
            if os.path.lexists(directory):
                raise WriteError(f"{directory} is there already; nothing is ever overwritten")
            half.chmod(0o755)
            half.rename(directory)
    except OSError as error:
        raise WriteError(f"{error.filename or directory}: {error.strerror}") from error


@contextmanager
def _half_made(directory: Path) -> Iterator[Path]:
    """A directory for the time until all is in it; removed at the end where it still has this name."""
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
    """Hold the directory: nobody else is making it."""
    descriptor = os.open(half, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = half.name.removeprefix(".new-env-")
            raise WriteError(
                f"another run of new-env makes {name} right now: wait for it"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What would kill the process ends it as an exception, so that what is half made is removed."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never readable by more than in the end, not even for a moment.
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "w", encoding="utf-8"
    ) as stream:
        stream.write(file.text)
