"""The hosts of this scenario; `support` holds the means of all scenarios."""

from __future__ import annotations

import json

import pytest
from support.inventory import ROOT, Fleet


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts. The tests name them directly, because the usual fixtures only know the usual groups."""
    state = ROOT / ".state" / "reach"
    hosts = json.loads((state / "fleet.json").read_text())["hosts"]
    return Fleet({}, {name: host["container"] for name, host in hosts.items()}, state)
