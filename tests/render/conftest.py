"""Render the delivered inventories once for all tests.

Each render is a run of ansible-playbook that takes seconds, so tests that need one outside of QUICK are slow. Renders
that tests of this run need start before the first test, and the tests of this directory come last. They are made in
processes of their own, because other tests meanwhile replace functions and variables of this one and end its children.
The processes of a run of pytest share renders: the first process that needs one makes it. So do the parts of a run of
scripts/check.sh.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.render.fleet import WANTED, Fleet, render

HERE = Path(__file__).parent
# The renders for tests that are not slow: several hosts without a firewall, and one host with all of the options.
QUICK = ("local", "odd")
# The fleets that most tests are about; each of these has one host of Redis.
ONE_REDIS = ("local", "production", "odd")
# The title that each fixture returns. Other titles are parameters of fixtures.
GIVEN = {
    "local": "local",
    "odd": "odd",
    "flower_alone": "flower-alone",
    "outside": "outside",
    "production": "production",
    "replicated": "replicated",
    "valkey": "debian13",
}


class Renders(dict[str, "Future[Fleet]"]):
    """Runs by title. A run that has not started starts when it is needed."""

    def __init__(self, pool: ProcessPoolExecutor, directory: Path) -> None:
        super().__init__()
        self._pool = pool
        self._directory = directory

    def __missing__(self, title: str) -> Future[Fleet]:
        self[title] = self._pool.submit(rendered_once, title, self._directory)
        return self[title]


RENDERS = pytest.StashKey[Renders]()


# First, because pytest's own hook leaves out slow tests.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE in item.path.parents)
    for item in items:
        if not set(asked_for([item])) <= set(QUICK):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    with ExitStack() as stack:
        if not session.config.option.collectonly:
            # Not forked: a copy of this process could wait for a lock that one of its threads held.
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(os.cpu_count(), spawn))
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
    """Return a directory that all processes of this run share: xdist gives each of them a directory inside it."""
    if "CELERY_FLEET_RENDERS" in os.environ:
        return Path(os.environ["CELERY_FLEET_RENDERS"])
    own: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # nothing public before fixtures
    made = (own.parent if hasattr(config, "workerinput") else own) / "renders"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def rendered_once(title: str, directory: Path) -> Fleet:
    result, failure = directory / f"{title}.pickle", directory / f"{title}.failed"
    # The system releases the lock if its holder is killed.
    with (directory / f"{title}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failure.exists():
            raise AssertionError(f"another process of this run said: {failure.read_text()}")
        if result.exists():
            made: Fleet = pickle.loads(result.read_bytes())  # noqa: S301  # of another process of this run
            return made
        try:
            made = render(title, directory)
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
    """Return a fleet with Flower within the web site, logs in files, and a name with a dash."""
    return pytestconfig.stash[RENDERS]["odd"].result()


@pytest.fixture(scope="session")
def flower_alone(pytestconfig: pytest.Config) -> Fleet:
    """Return the same without a web process, and with the schedule in a database."""
    return pytestconfig.stash[RENDERS]["flower-alone"].result()


@pytest.fixture(scope="session")
def outside(pytestconfig: pytest.Config) -> Fleet:
    """Return a fleet with a Redis that it does not run, and an exporter for an agent on each host."""
    return pytestconfig.stash[RENDERS]["outside"].result()


@pytest.fixture(scope="session")
def production(pytestconfig: pytest.Config) -> Fleet:
    """Return a fleet in which each host has one role, with a firewall."""
    return pytestconfig.stash[RENDERS]["production"].result()


@pytest.fixture(scope="session")
def replicated(pytestconfig: pytest.Config) -> Fleet:
    """Return a fleet with several hosts of Redis."""
    return pytestconfig.stash[RENDERS]["replicated"].result()


@pytest.fixture(scope="session")
def valkey(pytestconfig: pytest.Config) -> Fleet:
    """Return a fleet on Debian 13 with Valkey."""
    return pytestconfig.stash[RENDERS]["debian13"].result()


@pytest.fixture(scope="session", params=[*ONE_REDIS, "replicated"])
def fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    """Return each fleet, also one with several hosts of Redis."""
    return pytestconfig.stash[RENDERS][str(request.param)].result()


@pytest.fixture(scope="session", params=[*ONE_REDIS, "flower-alone"])
def any_fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    return pytestconfig.stash[RENDERS][str(request.param)].result()
