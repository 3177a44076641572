"""The systemd of the machine that runs the tests: its checks of units, and how it reads files."""

from __future__ import annotations

import ctypes
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/*/systemd", "/usr/lib/systemd", "/usr/lib64/systemd", "/lib/systemd")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze`; the checks here need no running systemd."""
    try:
        return subprocess.run(
            ["systemd-analyze", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )
    except FileNotFoundError:
        pytest.fail("systemd-analyze is not installed; run `make setup`")


@cache
def _library() -> ctypes.CDLL:
    for place in _PLACES:
        for path in sorted(Path("/").glob(f"{place[1:]}/libsystemd-shared-*.so")):
            return ctypes.CDLL(str(path))
    pytest.fail("systemd is not installed; run `make setup`")


def environment(path: Path) -> list[str]:
    """Return what systemd gives a process whose unit has `EnvironmentFile=path`: words of the form NAME=value.

    This uses the function with which systemd itself reads such files, and its test of what it passes on.
    """
    library = _library()
    found = ctypes.POINTER(ctypes.c_char_p)()
    library.load_env_file.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_char_p)),
    ]
    status = library.load_env_file(None, os.fsencode(path), ctypes.byref(found))
    if status < 0:
        raise OSError(-status, os.strerror(-status), str(path))
    words: list[str] = []
    library.env_assignment_is_valid.restype = ctypes.c_bool
    while found and (word := found[len(words)]) is not None:
        assert library.env_assignment_is_valid(word), f"systemd ignores {word!r}"
        words.append(word.decode())
    return words
