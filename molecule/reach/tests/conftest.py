"""The hosts of this scenario; `support` holds the means of all scenarios."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))

from support.inventory import ROOT, Fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts. The tests name them directly, because the usual fixtures only know the usual groups."""
    state = ROOT / ".state" / "reach"
    hosts = json.loads((state / "fleet.json").read_text())["hosts"]
    return Fleet({}, {name: host["container"] for name, host in hosts.items()}, state)
