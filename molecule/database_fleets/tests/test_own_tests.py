"""The tests that marketplace_ops brings along pass on PostgreSQL, where none of them is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import own_tests

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(2)


def test_all_of_them_pass_on_postgresql(market: Fleet) -> None:
    """Three of them back up a database and restore it, with PostgreSQL's own programs."""
    own_tests.assert_all_pass(market, 73)
