"""The delivered inventories, rendered once for all tests.

Each is a run of ansible-playbook that takes its seconds: they begin before the first test of all, and the tests of
this directory come last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.render.fleet import FILLED_IN, VALKEY, VARIANTS, Fleet, render

HERE = Path(__file__).parent
RENDERS = pytest.StashKey[dict[str, "Future[Fleet]"]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    wanted = any(HERE in item.path.parents for item in session.items)
    with ExitStack() as stack:
        if wanted and not session.config.option.collectonly:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            pool = stack.enter_context(ThreadPoolExecutor())
            session.config.stash[RENDERS] = {
                name: pool.submit(render, name, directory, given)
                for name, given in FILLED_IN.items()
            }
            session.config.stash[RENDERS] |= {
                title: pool.submit(render, name, directory, given, title=title)
                for title, (name, given) in VARIANTS.items()
            }
            session.config.stash[RENDERS]["valkey"] = pool.submit(
                render, "staging", directory, VALKEY, systemd=257, title="valkey"
            )
        return (yield)


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


@pytest.fixture(scope="session", params=["local", "production", "odd"])
def fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    return pytestconfig.stash[RENDERS][str(request.param)].result()
