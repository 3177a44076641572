"""The page's script polls a request's status as in the document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.fixture
def poll(example: Path) -> str:
    """Return the function that polls."""
    (script,) = (example / "frontend/dist/assets").glob("*.js")
    found = re.search(r"^function pollStatus\(.*?^}$", script.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[0]


def test_it_polls_every_two_seconds(poll: str) -> None:
    assert re.search(r"const pollInterval = setInterval\(.+\}, 2000\);", poll, re.DOTALL)
    assert "await api.getStatus(requestId)" in poll


@pytest.mark.parametrize(
    ("status", "then"),
    [
        ("completed", "await fetchResults(requestId)"),
        ("failed", "showError(response.data.error_message)"),
    ],
)
def test_polling_stops_at_the_end(poll: str, status: str, then: str) -> None:
    branch = re.search(rf'=== "{status}"\) \{{(.+?)\n    \}}', poll, re.DOTALL)
    assert branch
    stop, after = branch[1].strip().split("\n")
    assert stop == "clearInterval(pollInterval);"
    assert after.strip().startswith(then)


def test_polling_continues_otherwise(poll: str) -> None:
    """This also holds if there was no answer, as during a deploy."""
    assert poll.count("clearInterval") == 2
    trouble = re.search(r"catch \(error\) \{(.+?)^    \}$", poll, re.MULTILINE | re.DOTALL)
    assert trouble
    assert trouble[1].rstrip().endswith("return;")
