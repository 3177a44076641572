"""Workers and senders of each minor of Celery follow primaries that Sentinels know."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.delivery.failing_over import Load, loaded
from tests.unit.delivery.replicated import Replicated, replicated

from .environments import Environment, here, made

pytestmark = pytest.mark.long

# It asks again, because Celery 5.4 ignores `result_backend_always_retry` (docs/delivery.md), and because a busy machine
# may need longer for a new primary than a sender tries. Also, Celery misses a result that is stored while it subscribes
# again, between its look at the store and the subscription.
PATIENT = """
import time
from kombu.exceptions import OperationalError
from celery.exceptions import TimeoutError as NoResultError
from redis.exceptions import ConnectionError, TimeoutError
from shop import add, app

def result():
    end = time.monotonic() + 60
    while True:
        try:
            return add.delay(2, 3).get(20)
        except (ConnectionError, NoResultError, OperationalError, TimeoutError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)

for line in iter(input, ""):
    print(result(), flush=True)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Replicated]:
    with replicated(tmp_path / "broker") as servers:
        yield servers
        assert servers.refused() == []


@pytest.mark.parametrize("environment", here(), ids=str)
def test_tasks_and_results_follow_their_primaries(
    broker: Replicated, tmp_path: Path, environment: Environment
) -> None:
    with (
        replicated(tmp_path / "results", kind="results", like=broker) as results,
        loaded(tmp_path, broker, results=results, python=str(made(environment))) as load,
    ):
        load.start_worker("w1")
        with load.asking(PATIENT) as result:
            assert result() == "5\n", load.log("w1")
            for servers in (results, broker):
                servers.primary().kill()
                assert result() == "5\n", load.log("w1")
        assert results.refused() == []


def answers(load: Load) -> bool:
    """Return whether the worker answers an operator who connects now."""
    with load.app("operator") as app:
        return bool(app.control.ping(timeout=2))


@pytest.mark.parametrize(
    ("promise", "options"),
    [("inherit", ()), ("at_least_once", ("-P", "gevent"))],
    ids=["stock-prefork", "atomic-gevent"],
)
@pytest.mark.parametrize("environment", here(), ids=str)
def test_idle_processes_follow_when_a_primary_hangs(
    broker: Replicated,
    tmp_path: Path,
    environment: Environment,
    promise: str,
    options: tuple[str, ...],
) -> None:
    """Unlike one that is killed, it closes no connection, and idle processes send nothing on theirs."""
    with (
        replicated(tmp_path / "results", kind="results", like=broker) as results,
        loaded(
            *(tmp_path, broker),
            results=results,
            python=str(made(environment)),
            promise=promise,
        ) as load,
    ):
        load.start_worker("w1", *options)
        with load.asking(PATIENT) as result:
            assert result() == "5\n", load.log("w1")
            for servers in (results, broker):
                before = servers.primary()
                before.signal(signal.SIGSTOP)
                servers.until(lambda: servers.primary() is not before, "the primary moves")  # noqa: B023  # called at once
                assert result() == "5\n", load.log("w1")
        broker.until(lambda: answers(load), "the worker answers")
        assert results.refused() == []
