"""Greenlets continue while a worker with gevent waits for its broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.runtime.conftest import Run, document

#: Records every 0.1 s that greenlets run, and prints the longest pause after some attempts to connect.
APP = """
import os, sys, time
from celery import Celery, signals

app = Celery("shop", broker="redis://127.0.0.1:1/0")

@signals.worker_init.connect
def begin(**_):
    import gevent

    def tick():
        longest, begin = 0.0, time.monotonic()
        last = begin
        while last - begin < 15:
            gevent.sleep(0.1)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        print(f"longest pause {longest:.2f}", file=sys.__stdout__, flush=True)
        os._exit(0)

    gevent.spawn(tick)
"""


@pytest.mark.slow
def test_waiting_for_the_broker_blocks_no_greenlet(run: Run, tmp_path: Path) -> None:
    """kombu pauses for 2, 4, 6 s and so on between its attempts."""
    (tmp_path / "shop.py").write_text(APP)
    done = run(
        *("-W", "ignore", "-m", "celery", "-A", "shop", "worker", "--pool=gevent", "-c", "2"),
        component="worker",
        settings=document(
            component="worker",
            broker_url="redis://127.0.0.1:1/0",
            result_backend="redis://127.0.0.1:1/0",
        ),
    )
    assert "Trying again in 4.00 seconds" in done.stderr, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("longest pause"))
    # A pause that blocked would last for 4 s or more.
    assert float(line.split()[-1]) < 4, line
