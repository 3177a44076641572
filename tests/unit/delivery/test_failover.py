"""The primary is killed, frozen and moved under load; every task that was sent runs, and consuming goes on soon.

The record of what was sent and what ran is a file, so no server can lose it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .failing_over import LEASE, Load, loaded
from .replicated import NEXT_ELECTION, Replicated, replicated

pytestmark = pytest.mark.long

#: Seconds until a new task ends, on a busy machine, if the first election has a winner. Sentinels notice a fault after
#: 3 s here.
LONGEST = 30.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Replicated]:
    with replicated(tmp_path / "redis") as made:
        yield made


@pytest.fixture
def load(servers: Replicated, tmp_path: Path) -> Iterator[Load]:
    with loaded(tmp_path, servers) as made:
        for node in ("w1", "w2"):
            made.start_worker(node)
        made.start_sending()
        yield made


def longest(servers: Replicated, before: list[int]) -> float:
    """Return the seconds until a new task ends, with the elections since then that no Sentinel has won.

    Each Sentinel may have voted for itself. With one of three down, that is more likely.
    """
    since = (now - then for now, then in zip(servers.lost_elections(), before, strict=True))
    return LONGEST + NEXT_ELECTION * max(since)


def begin(servers: Replicated, how: str) -> None:
    """Begin a fault, and wait until the Sentinels agree on another primary."""
    primary = servers.primary()
    if how == "killed":
        primary.kill()
    elif how == "frozen":
        primary.signal(signal.SIGSTOP)
    else:
        # Writes wait, so replicas have everything before one of them becomes the primary.
        servers.ask(primary, "CLIENT", "PAUSE", "5000", "WRITE")
        servers.ask(servers.sentinels[0], "SENTINEL", "FAILOVER", servers.name)
    servers.until(lambda: servers.primary() is not primary, "the primary moves")


def mend(servers: Replicated) -> None:
    """Let everything return, and wait until it is a replica of the new primary."""
    for one in (*servers.servers, *servers.sentinels):
        if one.process is None:
            one.start()
        else:
            one.signal(signal.SIGCONT)
    servers.until(servers.is_whole, "all is as before", 120)


@pytest.mark.parametrize("how", ["killed", "frozen", "moved"])
def test_no_task_is_lost_when_the_primary_is(servers: Replicated, load: Load, how: str) -> None:
    faults = []
    for _ in range(3):
        time.sleep(2)
        lost_before, moment = servers.lost_elections(), time.monotonic()
        begin(servers, how)
        faults.append((moment, load.consumes_since(moment), longest(servers, lost_before)))
        mend(servers)
    lost, twice = load.settle()
    took = [round(seconds, 1) for _, seconds, _ in faults]
    print(f"{how}: {len(load.sent)} sent, {len(lost)} lost, {len(twice)} twice, after {took} s")
    assert lost == set()
    assert all(seconds < most for _, seconds, most in faults)
    ends: dict[str, float] = {}
    for name, when in load.noted("end"):
        ends.setdefault(name, when)
    # Only what the old primary had confirmed in its last moments may be repeated.
    assert [
        name for name in twice if not any(abs(ends[name] - moment) < LEASE for moment, *_ in faults)
    ] == []
    assert servers.refused() == []


def test_each_sentinel_may_be_down(servers: Replicated, load: Load) -> None:
    for number in range(3):
        servers.sentinels[number].kill()
        time.sleep(1)
        lost_before, moment = servers.lost_elections(), time.monotonic()
        primary = servers.primary()
        primary.kill()
        servers.until(lambda before=primary: servers.primary() is not before, "it moves")
        assert load.consumes_since(moment) < longest(servers, lost_before)
        mend(servers)
    lost, _ = load.settle()
    assert lost == set()


def test_a_worker_and_the_primary_die_together(servers: Replicated, load: Load) -> None:
    time.sleep(2)
    lost_before, moment = servers.lost_elections(), time.monotonic()
    servers.primary().kill()
    load.kill_worker("w1")
    # As when their host is gone: nothing hands back what the worker held.
    assert load.consumes_since(moment) < longest(servers, lost_before)
    mend(servers)
    lost, _ = load.settle()
    assert lost == set()
