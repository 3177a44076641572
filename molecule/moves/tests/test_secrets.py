"""No run has printed a secret."""

from __future__ import annotations

from support.change import Fleets


def test_no_secret_in_any_output(changes: Fleets) -> None:
    """The runs are those of the files before this one in the alphabet, among them those with new passwords."""
    assert changes.leaked(at_least=10) == set()
