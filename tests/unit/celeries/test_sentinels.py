"""Workers and senders of each minor of Celery follow primaries that Sentinels know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.delivery.failing_over import assert_results_follow
from tests.unit.delivery.replicated import Replicated, replicated

from .environments import Environment, here, made

pytestmark = pytest.mark.long


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Replicated]:
    with replicated(tmp_path / "broker") as servers:
        yield servers
        assert servers.refused() == []


@pytest.mark.parametrize("environment", here(), ids=str)
def test_tasks_and_results_follow_their_primaries(
    broker: Replicated, tmp_path: Path, environment: Environment
) -> None:
    assert_results_follow(tmp_path, broker, str(made(environment)))
