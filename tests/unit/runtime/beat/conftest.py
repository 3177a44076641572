from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import redis_server
from tests.unit.runtime.beat.real import RealBeat


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Restore this process's signal handlers after a test that installs beat's."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def real_beat(tmp_path: Path) -> Iterator[RealBeat]:
    with redis_server(tmp_path) as server:
        yield RealBeat(tmp_path, server)
