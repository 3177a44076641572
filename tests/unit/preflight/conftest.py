"""What all tests of preflight share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.preflight import oracle


@pytest.fixture(scope="package", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Most tests check an inventory that differs from the others' in a value, so its templates are the same."""
    with oracle.compiled_once():
        yield
