"""An option says in words which numbers it accepts."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import Option


@pytest.mark.parametrize(
    ("lowest", "highest", "words"),
    [
        (1, 1_048_576, "1 to 1048576"),
        (0.25, None, "0.25 or more"),
        (None, 2_000_000, "2000000 or less"),
        (None, None, ""),
    ],
)
def test_bounds_have_all_their_digits(
    lowest: float | None, highest: float | None, words: str
) -> None:
    assert Option("limit", "int", "A limit.", lowest=lowest, highest=highest).bounds == words


def test_a_violation_names_the_bound_with_all_its_digits() -> None:
    option = Option("limit", "int", "A limit.", lowest=1, highest=1_048_576)
    assert option.violation(0) == "below 1"
    assert option.violation(1_048_577) == "above 1048576"
    assert option.violation(1_048_576) == ""
