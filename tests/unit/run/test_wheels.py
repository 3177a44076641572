"""Packages that one host hands to the others."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import cache, wheels

SCOPE = ["/inventory", "/opt/shop", "shop"]
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "celery-fleet/wheels"


def test_the_name_depends_on_everything_that_determines_the_packages() -> None:
    one = wheels.name_of("digest", "platform", "")
    assert len(one) == 12
    assert wheels.name_of("digest", "platform", "") == one
    others = [
        wheels.name_of("other", "platform", ""),
        wheels.name_of("digest", "other", ""),
        wheels.name_of("digest", "platform", "https://packages.example.org/simple", ""),
        wheels.name_of("digest", "platform", "r1"),
    ]
    assert len({one, *others}) == 5


def test_a_host_does_not_choose_a_place_on_the_control_node(tmp_path: Path) -> None:
    platform = 'python ../../x linux ID=../../home VERSION_ID="/etc"'
    path = wheels.housed(tmp_path, platform, "v1")
    assert path.parent.parent == tmp_path
    assert ".." not in path.parts
    assert wheels.housed(tmp_path, "python .. linux", "v1").parts[-2] != ".."


def test_the_first_makes_them_and_the_next_finds_them(directory: Path) -> None:
    with wheels.turn("v1", SCOPE, "worker1") as (path, there):
        assert not there
        path.write_bytes(b"wheels")
    with wheels.turn("v1", SCOPE, "worker2") as (path, there):
        assert there
        assert path.read_bytes() == b"wheels"
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_file_that_was_cut_off_is_written_again(directory: Path) -> None:
    """By a power loss of a control node, for example."""
    path = directory / "r1.tar.gz"
    cache.keep(path, b"source")
    path.write_bytes(b"")
    cache.keep(path, b"source")
    assert path.read_bytes() == b"source"


def host(number: int, results: Any, *, fails: bool) -> None:
    try:
        with wheels.turn("v1", SCOPE, f"worker{number}") as (path, there):
            if not there:
                time.sleep(0.3)
                if fails:
                    raise UserError("no index")
                path.write_bytes(b"wheels")
        results.put("found" if there else "made")
    except UserError as error:
        results.put(str(error))


def run(*, fails: bool) -> list[str]:
    """Several hosts at once, each in a process, as Ansible runs them."""
    results = FORK.Queue()
    hosts = [
        FORK.Process(target=host, args=(number, results), kwargs={"fails": fails})
        for number in range(3)
    ]
    for process in hosts:
        process.start()
    found = [results.get(timeout=20) for _ in hosts]
    for process in hosts:
        process.join()
    return sorted(found)


def test_the_others_wait_for_the_first() -> None:
    assert run(fails=False) == ["found", "found", "made"]


def test_if_the_first_fails_the_others_say_so_and_do_not_try() -> None:
    found = run(fails=True)
    assert found.count("no index") == 1
    assert sum("because the same failed on worker" in text for text in found) == 2


def test_the_next_run_tries_again(directory: Path) -> None:
    with pytest.raises(UserError), wheels.turn("v1", SCOPE, "worker1"):
        raise UserError("no index")
    # Another run has another process for all its hosts.
    (lock,) = directory.glob("*.lock")
    run, _, host = lock.read_text().partition(" ")
    assert host == "worker1"
    # A process that has the same number after it.
    lock.write_text(f"{run}0 worker1")
    with wheels.turn("v1", SCOPE, "worker1") as (_, there):
        assert not there


def test_a_host_that_goes_away_keeps_no_other_from_trying() -> None:
    with pytest.raises(ConnectionError), wheels.turn("v1", SCOPE, "worker1"):
        raise ConnectionError
    with wheels.turn("v1", SCOPE, "worker2") as (_, there):
        assert not there


def test_wheels_that_no_run_uses_are_deleted(directory: Path) -> None:
    made = []
    for name in ("old", "new"):
        with wheels.turn(name, SCOPE, "worker1") as (path, _):
            path.write_bytes(b"")
            made.append(path)
    os.utime(made[0], (time.time() - cache.KEPT - 60,) * 2)
    with wheels.turn("v2", SCOPE, "worker1") as (path, _):
        path.write_bytes(b"")
    assert set(directory.glob("*.tar")) == {made[1], path}


def test_wheels_are_not_shared_between_inventories_applications_or_users() -> None:
    """The host that makes wheels decides what runs on the hosts that install them."""
    with wheels.turn("v1", SCOPE, "worker1") as (path, _):
        path.write_bytes(b"")
    for place, other in ((0, "/staging"), (1, "/usr/lib/celery-fleet/cli"), (2, "root")):
        scope = [*SCOPE[:place], other, *SCOPE[place + 1 :]]
        with wheels.turn("v1", scope, "worker1") as (_, there):
            assert not there


def packages(**versions: str) -> dict[str, Any]:
    return {
        "__celery_release_built": {
            "packages": [{"name": name, "version": v} for name, v in versions.items()]
        }
    }


def test_differences_between_hosts() -> None:
    variables = {
        "a": packages(celery="5.5", kombu="5.5"),
        "b": packages(celery="5.6", kombu="5.5", tomli="2"),
        # Built before packages were noted, or not part of the run.
        "c": packages(),
        "d": {},
        # Another platform has another virtualenv, and a lock may name other versions for it.
        "e": {
            "__celery_release_built": {
                "virtualenv": "v2",
                **packages(celery="5.7")["__celery_release_built"],
            }
        },
    }
    told = wheels.differences(["a", "b", "c", "d", "e"], variables)
    assert told == "celery is 5.5 on a and 5.6 on b"
    assert wheels.differences(["b", "c", "d"], variables) == ""
    many = {"a": packages(**{f"p{n}": "1" for n in range(7)})}
    many["b"] = packages(**{f"p{n}": "2" for n in range(7)})
    assert wheels.differences(["a", "b"], many).endswith("; and 2 more")
