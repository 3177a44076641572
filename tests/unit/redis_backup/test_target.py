"""Where backups go: whole or not at all, and only an application's own are ever removed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.system import backup_target, redis_backup
from celery_fleet.system.backup_target import DirectoryTarget, RsyncTarget, TargetError, surplus
from scripts.ports import free_port, listens
from tests.fleet import wait_for
from tests.programs import required
from tests.unit.redis_backup.servers import Instances, places


def backup(directory: Path, hour: int, app: str = "shop") -> Path:
    """Make a backup as the program does."""
    path = directory / f"{app}-20260102T{hour:02}0000Z"
    path.mkdir(parents=True)
    (path / "broker.rdb").write_bytes(b"REDIS0010" * 1000)
    (path / "SHA256SUMS").write_text("…  broker.rdb\n")
    return path


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


def test_names_of_others_are_never_surplus() -> None:
    own = [f"shop-2026010{day}T000000Z" for day in (3, 1, 2)]
    others = ["shop", "shop-x", "shop-20260101T000000Z.old", "web-shop-20260101T000000Z", "shopX"]
    newest = own[0]
    assert surplus("shop", [*own, *others], 2, newest) == ["shop-20260101T000000Z"]
    assert surplus("shop", [*own, *others], 3, newest) == []
    # A dot in a name is no pattern.
    assert surplus("a.b", ["axb-20260101T000000Z"], 0, "") == []


@pytest.mark.parametrize("keep", [1, 2])
def test_a_backup_is_not_removed_by_its_own_run_after_the_clock_was_ahead(keep: int) -> None:
    stored, ahead = "shop-20260101T000000Z", ["shop-20270101T000000Z", "shop-20270102T000000Z"]
    assert surplus("shop", [stored, *ahead], keep, stored) == ahead[: 3 - keep]


def test_backups_from_the_time_when_the_clock_was_ahead_go_first() -> None:
    """Otherwise they would stay, and all but the newest of the others would go."""
    real = [f"shop-2026010{day}T000000Z" for day in (1, 2, 3)]
    ahead = ["shop-20270101T000000Z", "shop-20270102T000000Z"]
    for keep, gone in ((4, ahead[:1]), (3, ahead), (2, [*ahead, real[0]])):
        assert surplus("shop", [*real, *ahead], keep, real[-1]) == gone


def test_half_a_copy_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "target"
    place.mkdir()
    target = DirectoryTarget(place)
    target.put(backup(tmp_path, 1))

    def full(source: Any, copy: Any, size: int) -> None:
        copy.write(source.read(10))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(backup_target.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space left"):
            target.put(backup(tmp_path, 2))
    assert names(place) == ["shop-20260102T010000Z"]
    # A copy that was killed is removed by the next backup, and does not count.
    (place / ".shop-20260102T020000Z.part").mkdir()
    (place / ".other-20260102T020000Z.part").mkdir()
    target.put(backup(tmp_path, 3))
    assert target.prune("shop", 2, "shop-20260102T030000Z") == []
    assert names(place) == [
        ".other-20260102T020000Z.part",
        "shop-20260102T010000Z",
        "shop-20260102T030000Z",
    ]


# --- rsync -------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run a daemon of rsync; yield the address of a module, and its directory."""
    place = tmp_path / "served"
    place.mkdir()
    port = free_port()
    (tmp_path / "rsyncd.conf").write_text(
        f"pid file = {tmp_path}/pid\nlog file = {tmp_path}/log\nuse chroot = no\nmunge symlinks = no\n"
        f"address = 127.0.0.1\nport = {port}\n[backups]\npath = {place}\nread only = no\n"
        f"uid = {os.getuid()}\ngid = {os.getgid()}\n"
    )
    argv = [required("rsync"), "--daemon", "--no-detach", f"--config={tmp_path}/rsyncd.conf"]
    daemon = subprocess.Popen(argv)
    try:
        wait_for(lambda: listens(port))
        yield f"rsync://127.0.0.1:{port}/backups", place
    finally:
        daemon.terminate()
        daemon.wait(10)


@pytest.mark.slow
def test_rsync_stores_and_removes(module: tuple[str, Path], tmp_path: Path) -> None:
    address, place = module
    target = RsyncTarget(address, [], tmp_path)
    for name in ("shop-notes", "other-20200101T000000Z", "shop-20190101T000000Z"):
        (place / name).mkdir()
        (place / name / "kept").touch()
    (place / "other-20200101T000000Z/SHA256SUMS").touch()
    for hour in range(4):
        target.put(backup(tmp_path / "made", hour))
    stored = "shop-20260102T030000Z"
    assert target.prune("shop", 2, stored) == ["shop-20260102T000000Z", "shop-20260102T010000Z"]
    # What a killed backup has left is gone as well.
    assert names(place) == [
        "other-20200101T000000Z",
        *("shop-20260102T020000Z", "shop-20260102T030000Z", "shop-notes"),
    ]
    assert names(place / "shop-20260102T030000Z") == ["SHA256SUMS", "broker.rdb"]
    made = tmp_path / "made/shop-20260102T030000Z/broker.rdb"
    assert (place / "shop-20260102T030000Z/broker.rdb").read_bytes() == made.read_bytes()
    assert names(place / "other-20200101T000000Z") == ["SHA256SUMS", "kept"]
    assert target.prune("shop", 2, stored) == []


@pytest.mark.slow
def test_without_its_checksums_a_backup_does_not_count(
    module: tuple[str, Path], tmp_path: Path
) -> None:
    address, place = module
    target = RsyncTarget(address, [], tmp_path)
    target.put(backup(tmp_path / "made", 1))
    interrupted = backup(tmp_path / "made", 2)
    (interrupted / "SHA256SUMS").unlink()
    target.put(interrupted)
    assert target.prune("shop", 1, "shop-20260102T010000Z") == []
    assert names(place) == ["shop-20260102T010000Z"]


@pytest.mark.slow
def test_what_has_arrived_of_a_failed_backup_is_removed(
    module: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a full target would stay full."""
    address, place = module
    target = RsyncTarget(address, [], tmp_path)
    failing = backup(tmp_path / "made", 1)
    send = target._rsync

    def fails_at_the_end(*words: str) -> str:
        done = send(*words)
        if str(failing) in words:
            raise TargetError("rsync ended with status 11: No space left on device")
        return done

    monkeypatch.setattr(target, "_rsync", fails_at_the_end)
    with pytest.raises(TargetError, match="No space left"):
        target.put(failing)
    assert names(place) == []


@pytest.mark.slow
def test_a_target_that_refuses_is_named(module: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = module
    with pytest.raises(TargetError, match=r"rsync ended with status \d+: .+"):
        RsyncTarget(f"{address}x", [], tmp_path).put(backup(tmp_path / "made", 1))


def test_ssh_trusts_only_the_given_host_key(tmp_path: Path) -> None:
    """rsync starts this ssh, whose options are what the inventory says."""
    where = places(
        tmp_path, Instances({}), to="me@backup1:/srv", ssh_key="KEY", ssh_known_hosts="backup1 K"
    )
    found = redis_backup.target(redis_backup.read(where), where)
    assert isinstance(found, RsyncTarget)
    (_, shell) = found._shell
    for option in (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={where.runtime}/known_hosts",
        "GlobalKnownHostsFile=/dev/null",
        f"-i {where.runtime}/ssh_key",
        "-F none",
    ):
        assert option in shell
    asked = [*shell.split(), "-G", "backup1"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    lists = {line for line in said.splitlines() if "knownhostsfile" in line}
    assert lists == {
        f"userknownhostsfile {where.runtime}/known_hosts",
        "globalknownhostsfile /dev/null",
    }
    assert (where.runtime / "ssh_key").read_text() == "KEY\n"
    assert (where.runtime / "ssh_key").stat().st_mode & 0o777 == 0o600
    assert (where.runtime / "known_hosts").read_text() == "backup1 K\n"


def test_ssh_is_what_rsync_calls(tmp_path: Path) -> None:
    """A stand-in for ssh runs the other end here, so both ends of rsync are real."""
    place = tmp_path / "remote"
    place.mkdir()
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nwhile [ "$1" != host ]; do shift; done; shift; exec "$@"\n')
    ssh.chmod(0o755)
    target = RsyncTarget(f"host:{place}", [str(ssh), "-o", "BatchMode=yes"], tmp_path)
    for hour in range(3):
        target.put(backup(tmp_path / "made", hour))
    assert target.prune("shop", 1, "shop-20260102T020000Z") == [
        *("shop-20260102T000000Z", "shop-20260102T010000Z")
    ]
    assert names(place) == ["shop-20260102T020000Z"]
