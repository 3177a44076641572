"""Workers and senders of each minor of Celery follow primaries that Sentinels know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.delivery.failing_over import loaded
from tests.unit.delivery.replicated import Replicated, replicated

from .environments import Environment, here, made

pytestmark = pytest.mark.long

# It asks again, because Celery 5.4 ignores `result_backend_always_retry` (docs/delivery.md), and because a busy machine
# may need longer for a new primary than a sender tries.
PATIENT = """
import time
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError
from shop import add, app

def result():
    end = time.monotonic() + 60
    while True:
        try:
            return add.delay(2, 3).get(60)
        except (ConnectionError, OperationalError):
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
