"""What a person may see of a program's own words."""

from __future__ import annotations

import pytest
from fleet_control.redact import hide_logins


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach redis://user:pw@host:6379/0.", "cannot reach redis://***@host:6379/0."),
        ("postgresql+psycopg://u:p@ss/w:rd@db/x", "postgresql+psycopg://***@db/x"),
        ("rediss://:pw@h1;rediss://:pw@h2", "rediss://***@h2"),
        ("a@h1 asks http://h2/x for mail to a@b", "a@h1 asks http://h2/x for mail to a@b"),
    ],
)
def test_logins_of_urls(text: str, shown: str) -> None:
    assert hide_logins(text) == shown
