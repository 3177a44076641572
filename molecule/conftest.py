"""What the tests of all scenarios share. `shared/tests/support`, which is on their path, has their helpers."""

from __future__ import annotations

import uuid

import pytest
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture
def label() -> str:
    """Return a prefix for names of tasks that no other test and no other run uses."""
    return uuid.uuid4().hex[:12]
