"""The tests that Flash Promos brings along pass on PostgreSQL, where none of them is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import own_tests

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(2)


def test_all_of_them_pass_on_postgresql(flash: Fleet) -> None:
    """One of them runs tasks in several threads at once, which must not do anything twice."""
    own_tests.assert_all_pass(flash, 33)
