"""The delivered inventories, rendered once for all tests.

Each is a run of ansible-playbook that takes its seconds: those that tests of this run ask for begin before the first
test of all, and the tests of this directory come last. Processes of one run of pytest share them: the first to come
renders one.
"""

from __future__ import annotations

import fcntl
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.render.fleet import FILLED_IN, VALKEY, VARIANTS, Fleet, render

HERE = Path(__file__).parent
# Title -> the inventory and what is given for all of its hosts.
WANTED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, given) for name, given in FILLED_IN.items()},
    **VARIANTS,
    "valkey": ("staging", VALKEY),
}
FLEETS = ("local", "production", "odd")
# Fixture -> the title that it gives. Those of the others are their parameters.
GIVEN = {"local": "local", "odd": "odd", "flower_alone": "flower-alone", "valkey": "valkey"}


class Renders(dict[str, "Future[Fleet]"]):
    """Runs by their titles. One that has not begun does so when it is asked for."""

    def __init__(self, pool: ThreadPoolExecutor, directory: Path) -> None:
        super().__init__()
        self._pool = pool
        self._directory = directory

    def __missing__(self, title: str) -> Future[Fleet]:
        self[title] = self._pool.submit(rendered_once, title, self._directory)
        return self[title]


RENDERS = pytest.StashKey[Renders]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    with ExitStack() as stack:
        if not session.config.option.collectonly:
            pool = stack.enter_context(ThreadPoolExecutor())
            renders = Renders(pool, shared(session.config))
            session.config.stash[RENDERS] = renders
            for title in asked_for(session.items):
                renders[title]
        return (yield)


def asked_for(items: list[pytest.Item]) -> list[str]:
    """Return the titles that tests of this directory ask for by a fixture or a parameter, in the order of WANTED."""
    titles: set[object] = set()
    for item in items:
        if HERE in item.path.parents:
            titles.update(GIVEN.get(name) for name in getattr(item, "fixturenames", ()))
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            titles.update(one for one in parameters.values() if isinstance(one, str))
    return [title for title in WANTED if title in titles]


def shared(config: pytest.Config) -> Path:
    """A directory of all processes of this run: xdist gives each of them its own one there."""
    own: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # nothing public before fixtures
    made = (own.parent if hasattr(config, "workerinput") else own) / "renders"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def rendered_once(title: str, directory: Path) -> Fleet:
    result, failure = directory / f"{title}.pickle", directory / f"{title}.failed"
    # Freed by the system where its holder is killed.
    with (directory / f"{title}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failure.exists():
            raise AssertionError(f"another process of this run said: {failure.read_text()}")
        if result.exists():
            made: Fleet = pickle.loads(result.read_bytes())  # noqa: S301  # of another process of this run
            return made
        name, given = WANTED[title]
        systemd = 257 if title == "valkey" else 252
        try:
            made = render(name, directory, given, systemd=systemd, title=title)
        except BaseException as error:
            failure.write_text(f"{type(error).__name__}: {error}")
            raise
        result.write_bytes(pickle.dumps(made))
        return made


@pytest.fixture(scope="session")
def local(pytestconfig: pytest.Config) -> Fleet:
    return pytestconfig.stash[RENDERS]["local"].result()


@pytest.fixture(scope="session")
def odd(pytestconfig: pytest.Config) -> Fleet:
    """Flower within the web site, logs in files, and a name with a dash."""
    return pytestconfig.stash[RENDERS]["odd"].result()


@pytest.fixture(scope="session")
def flower_alone(pytestconfig: pytest.Config) -> Fleet:
    """The same, without a web process, and with the schedule in a database."""
    return pytestconfig.stash[RENDERS]["flower-alone"].result()


@pytest.fixture(scope="session")
def valkey(pytestconfig: pytest.Config) -> Fleet:
    """Debian 13 with Valkey."""
    return pytestconfig.stash[RENDERS]["valkey"].result()


@pytest.fixture(scope="session", params=FLEETS)
def fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    return pytestconfig.stash[RENDERS][str(request.param)].result()


@pytest.fixture(
    scope="session", params=[*FLEETS, pytest.param("flower-alone", marks=pytest.mark.slow)]
)
def any_fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    return pytestconfig.stash[RENDERS][str(request.param)].result()
