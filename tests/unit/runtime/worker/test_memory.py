"""For how many more processes a host has memory, from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from celery_fleet.worker import memory
from celery_fleet.worker.memory import MIB, Memory, Room

MEMINFO = """\
MemTotal:        8000000 kB
MemFree:          500000 kB
MemAvailable:    2048000 kB
HugePages_Total:       0
"""
NODE = """\
Node {0} MemTotal:        4000000 kB
Node {0} MemFree:          1024000 kB
Node {0} Active(file):      102400 kB
Node {0} Inactive(file):    204800 kB
Node {0} SReclaimable:      102400 kB
Node {0} HugePages_Total:     0
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "own").write_text("0::/\n")
    for number in (0, 1):
        node = tmp_path / "nodes" / f"node{number}"
        node.mkdir(parents=True)
        (node / "meminfo").write_text(NODE.format(number))
    (tmp_path / "groups").mkdir()
    return tmp_path


def group(host: Path, path: str, **files: str) -> None:
    directory = host / "groups" / path
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "max": "max",
        "high": "max",
        "current": "0",
        "stat": "anon 1",
        **files,
    }.items():
        (directory / f"memory.{name}").write_text(f"{text}\n")


def available(host: Path) -> Room | None:
    return memory.available(host / "meminfo", host / "nodes", host / "groups", host / "own")


def test_the_hosts_memory(host: Path) -> None:
    (host / "meminfo").write_text(MEMINFO)
    assert available(host) == Room(2000 * MIB, "the host")


def test_the_hosts_memory_if_its_unit_may_not_see_it(host: Path) -> None:
    # On each node what is free, and half of the caches.
    assert available(host) == Room(2 * (1000 + 200) * MIB, "the host")


def test_a_limit_of_the_worker_or_of_a_group_above_it(host: Path) -> None:
    (host / "own").write_text("1:name=systemd:/other\n0::/shop.slice/shop-worker@mail.service\n")
    stat = f"anon 1\ninactive_file {20 * MIB}\nactive_file 5"
    group(
        host,
        "shop.slice/shop-worker@mail.service",
        max=str(512 * MIB),
        high=str(400 * MIB),
        current=str(300 * MIB),
        stat=stat,
    )
    found = available(host)
    assert found == Room(120 * MIB, "memory.high of shop-worker@mail.service")
    group(host, "shop.slice", max=str(1000 * MIB), current=str(990 * MIB))
    assert available(host) == Room(10 * MIB, "memory.max of shop.slice")


def test_nothing_is_known(tmp_path: Path) -> None:
    assert available(tmp_path) is None
    (tmp_path / "own").write_text("4:memory:/docker\n")
    assert available(tmp_path) is None


def test_the_memory_of_processes() -> None:
    own = os.getpid()
    (size,) = memory.sizes([own, 2**22 + 1])
    assert MIB < size < 2**40


def test_processes_fit_as_far_as_the_memory_goes() -> None:
    known = Memory()
    room = Room(250 * MIB, "the host")
    assert known.room(room, [100 * MIB, 100 * MIB], 2, 5) == 2
    assert known.missing == "the host has 250 MiB left, and a process needs 100 MiB"
    assert known.room(room, [100 * MIB, 100 * MIB], 2, 2) == 2
    assert known.missing == ""
    # Those that have just started will need as much as the others.
    assert known.room(room, [100 * MIB, 100 * MIB, 10 * MIB, 10 * MIB], 4, 2) == 0
    # Only half of the processes were measured.
    assert known.room(room, [100 * MIB, 40 * MIB], 4, 2) == 1


def test_without_figures_everything_fits() -> None:
    assert Memory().room(None, [MIB], 1, 7) == 7
    assert Memory().room(Room(0, "the host"), [], 0, 7) == 7


def test_a_group_beyond_its_limit_has_no_room() -> None:
    assert Memory().room(Room(-5 * MIB, "memory.high of x"), [MIB], 1, 7) == 0
