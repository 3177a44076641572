"""Programs that tests run for real."""

from __future__ import annotations

import shutil

import pytest


def required(name: str) -> str:
    """Path of a program; without it a test fails, since one that is left out hides what it would show."""
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.fail(f"{name} is not installed; run `make setup`")
    return path
