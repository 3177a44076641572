"""What the tests of changes share; `change` holds the means, `support` those of all scenarios."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from change import Fleets
from support import web
from support.inventory import load_fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """The fleet under test, and what is done to it."""
    return Fleets(load_fleet(), tmp_path_factory.mktemp("changes"))


@pytest.fixture
def settled(changes: Fleets) -> Generator[None]:
    """Whatever a test changes is taken back by a run of site.yml, which must end well."""
    yield
    restored = changes.site("restored")
    assert restored.run.status == 0, restored.run.end
    assert changes.plan("restored-plan").items == []


@pytest.fixture
def label() -> str:
    """The beginning of names that no other test, and no other run, gives to its tasks."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def requests_meanwhile(changes: Fleets) -> Callable[[], AbstractContextManager[list[int]]]:
    """Ask the web process again and again while a block runs: the status of each answer, 0 where there was none."""

    @contextmanager
    def asking() -> Iterator[list[int]]:
        answers: list[int] = []
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.1):
                try:
                    answers.append(web.api(changes.fleet, "/api/v1/products").status)
                except OSError:
                    answers.append(0)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield answers
        finally:
            over.set()
            thread.join()

    return asking
