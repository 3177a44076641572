"""Try files in their places without touching what is there: in a mount namespace of a child process.

Over each directory that holds a candidate a stand-in is mounted: all that the directory has, by bind mounts, and the
candidates. Whoever runs in the child finds them under their real paths. With the child all of it is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# From linux/sched.h and linux/mount.h.
_CLONE_NEWNS = 0x00020000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000


class NamespaceError(Exception):
    """The kernel grants no namespace, or a mount failed; the message says which."""


@dataclass(frozen=True)
class Candidate:
    """A file to try: its content, and whose it will be."""

    content: bytes
    mode: int = 0o644
    uid: int = -1
    gid: int = -1


def _call(function: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise NamespaceError(f"{function}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    try:
        _call("mount", os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, None)
    except NamespaceError as error:
        raise NamespaceError(f"{error} ({source} on {target})") from None


def with_candidates(
    candidates: Mapping[str, Candidate], work: Callable[[], list[str]]
) -> list[str]:
    """Run `work` where the candidates lie in their places; returns what it returns.

    Files that `work` makes in the runtime directory `/run` go with the namespace as well.

    Raises:
        NamespaceError: There can be no such namespace here.
    """
    with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _answer(writing, scratch, candidates, work)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            text = stream.read()
        os.waitpid(child, 0)
    if not text:
        raise NamespaceError("the child process ended without an answer")
    answer = json.loads(text)
    if "error" in answer:
        raise NamespaceError(answer["error"])
    return [str(item) for item in answer["found"]]


def _answer(
    pipe: int, scratch: str, candidates: Mapping[str, Candidate], work: Callable[[], list[str]]
) -> None:
    """The child's whole life: nothing of the parent's runs on in it, whatever happens."""
    try:
        try:
            _enter(scratch, candidates)
            answer: dict[str, object] = {"found": work()}
        except (NamespaceError, OSError) as error:
            answer = {"error": str(error)}
        with os.fdopen(pipe, "w") as stream:
            json.dump(answer, stream)
    finally:
        os._exit(0)


def _enter(scratch: str, candidates: Mapping[str, Candidate]) -> None:
    real = {_real(path): candidate for path, candidate in candidates.items()}
    # The nearest directory that is there stands for those which are not; a parent comes before its children.
    directories = sorted({_existing(os.path.dirname(path)) for path in real} | {"/run"})
    if "/" in directories:
        raise NamespaceError("nothing can stand in for the root directory")
    _call("unshare", _CLONE_NEWNS)
    # Nothing that is mounted here shall reach the host.
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", scratch, "tmpfs", 0)
    for number, directory in enumerate(directories):
        _stand_in(directory, os.path.join(scratch, str(number)), real)
    for path, candidate in real.items():
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        # Never over a file that is there: that could only be the live one.
        with open(path, "xb") as stream:
            stream.write(candidate.content)
            os.fchmod(stream.fileno(), candidate.mode)
            os.fchown(stream.fileno(), candidate.uid, candidate.gid)


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _real(path: str) -> str:
    """The path without links to directories on its way: what is mounted has no other name."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _stand_in(directory: str, place: str, candidates: Mapping[str, Candidate]) -> None:
    """Mount over a directory another one that has all its entries but the candidates."""
    os.mkdir(place)
    now = os.stat(directory)
    os.chown(place, now.st_uid, now.st_gid)
    os.chmod(place, stat.S_IMODE(now.st_mode))
    for entry in os.scandir(directory):
        twin = os.path.join(place, entry.name)
        if entry.path in candidates:
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), twin)
            continue
        if entry.is_dir():
            os.mkdir(twin)
        else:
            with open(twin, "wb"):
                pass
        _mount(entry.path, twin, "", _MS_BIND | _MS_REC)
    _mount(place, directory, "", _MS_BIND | _MS_REC)


def program(name: str) -> str | None:
    """Where a daemon's program is; nothing where it is not installed."""
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
