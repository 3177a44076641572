"""What the tests of this scenario share; `restarts` has the load and its record."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "restarts" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from deploys import Deploys
from ground import FLEET, Case, Ground
from support.inventory import load_fleet

#: Its hooks are those of all scenarios with this load.
pytest_plugins = ["load_hooks"]


@pytest.fixture(scope="session")
def ground() -> Ground:
    """The hosts of this scenario."""
    return Ground(load_fleet(), "noon")


@pytest.fixture(scope="session")
def deploys(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Deploys:
    """Releases of the application, and what is done with them."""
    return Deploys(ground, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session", autouse=True)
def first(ground: Ground, deploys: Deploys) -> None:
    """A release of this scenario serves, deployed by site.yml."""
    case = Case("first", ground.results / "first")
    case.log.unlink(missing_ok=True)
    done = deploys.site(case, deploys.release("first"))
    assert done.status == 0, done.end
    ground.now_running = FLEET
