"""Fixtures of all tests of preflight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.preflight import oracle


@pytest.fixture(scope="package", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compile templates only once: most tests' inventories differ in one value, so their templates are the same."""
    with oracle.compiled_once():
        yield
