"""What the three scenarios of the delivery share: fixtures, which their conftest.py name, and so pytest finds them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from ground import SEED, Ground
from support import resp
from support.inventory import load_fleet

from scripts.restarts import origin


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of what takes too long for `make test-…`."""
    config.addinivalue_line("markers", "soak: is only run by `make soak` and `make soak-…`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked so, unless it is wanted."""
    left_out = (
        [] if origin.is_soak() else [item for item in items if item.get_closest_marker("soak")]
    )
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def ground() -> Ground:
    """The hosts of a scenario; which broker they have is kept beside the results, for the report."""
    ground = Ground(load_fleet(), "delivery")
    about = {"broker": resp.version(ground.fleet, "broker")}
    (ground.results / "about.json").write_text(json.dumps(about) + "\n")
    return ground


@pytest.fixture(autouse=True)
def nothing_refused(ground: Ground) -> Iterator[None]:
    """The roles' users may do all that a fault makes of them."""
    yield
    assert resp.acl_log(ground.fleet, "broker") == []


@pytest.fixture
def numbers() -> random.Random:
    """The same for each test, whatever ran before it."""
    return random.Random(SEED)  # noqa: S311  # a load, no secret
