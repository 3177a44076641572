"""Fixtures: a broker with the roles' users, for tests that move messages by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .holding import Store, clear, serving


@pytest.fixture(scope="module")
def store_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with serving(tmp_path_factory.mktemp("broker")) as store:
        yield store


@pytest.fixture
def store(store_of_module: Store) -> Iterator[Store]:
    clear(store_of_module)
    yield store_of_module
    assert store_of_module.refused() == []
