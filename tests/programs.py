"""Real programs that tests run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

import pytest

#: The roles' options that make a broker keep what it confirmed; tests/render/test_redis.py checks the role for them.
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")


def required(name: str) -> str:
    """Return the path of a program; fail if it is missing, because a skipped test would hide faults."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = shutil.which(name, path=f"{system}:{os.environ.get('PATH', '')}")
    if path is None:
        pytest.fail(f"{name} is not installed; run `make setup`")
    return path


@cache
def knows_setinfo() -> bool:
    """Return whether the server here knows CLIENT SETINFO, as from Redis 7.2 on; older ones refuse ACL rules for it."""
    done = subprocess.run(
        [required("redis-server"), "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r" v=(\d+)\.(\d+)", done.stdout)
    assert found, done.stdout
    return (int(found[1]), int(found[2])) >= (7, 2)
