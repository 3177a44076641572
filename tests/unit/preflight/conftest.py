"""Fixtures of all tests of preflight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import rendering


@pytest.fixture(scope="package", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compile templates only once: most tests' inventories differ in one value, so their templates are the same."""
    with rendering.compiled_once():
        yield
