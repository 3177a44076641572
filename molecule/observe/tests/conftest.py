"""The fleet of this scenario, and the Prometheus that watches it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from browser import Browser
from prometheus import HalfDeployed, Prometheus, pins
from support.inventory import ROOT, Fleet, load_fleet
from support.notes import note, pytest_terminal_summary  # noqa: F401  # a fixture and a hook
from support.plays import Started


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return load_fleet()


@pytest.fixture(scope="session")
def half_deployed(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> HalfDeployed:
    """A run that deploys another release, and is killed when it has brought all workers to it, but not beat."""
    directory = tmp_path_factory.mktemp("half")
    source = ROOT / fleet.of("fleet")["celery_app_source"]["path"]
    shutil.copytree(source, directory / "other")
    with (directory / "other/app/tasks.py").open("a") as tasks:
        tasks.write("# another release\n")
    wanted = {"celery_app_source": {"path": str(directory / "other")}}
    before = pins(fleet, "celery_beat")
    run = Started.site(fleet, "half-deployed", f"--extra-vars={json.dumps(wanted)}")
    run.kill_when(lambda: set(pins(fleet).values()).isdisjoint(before.values()), 1800)
    return HalfDeployed(time.monotonic(), before)


@pytest.fixture(scope="session")
def prometheus(fleet: Fleet) -> Prometheus:
    """Prometheus, once it has scraped every host."""
    found = Prometheus(fleet)
    found.wait_for_all_targets()
    return found


@pytest.fixture(scope="session")
def browser(fleet: Fleet) -> Browser:
    return Browser(fleet)
