"""Programs that tests run for real."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import pytest

#: How the roles have a broker keep what it confirmed; tests/render/test_redis.py holds the role to it.
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")


def required(name: str) -> str:
    """Path of a program; without it a test fails, since one that is left out hides what it would show."""
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.fail(f"{name} is not installed; run `make setup`")
    return path


@cache
def knows_setinfo() -> bool:
    """Whether the server here knows CLIENT SETINFO, as Redis 7.2 was the first; older ones refuse rules on it."""
    done = subprocess.run(
        [required("redis-server"), "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r" v=(\d+)\.(\d+)", done.stdout)
    assert found, done.stdout
    return (int(found[1]), int(found[2])) >= (7, 2)
