"""The backup program on real Redis servers: what it stores, and that a failed backup costs no earlier one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_fleet.common import backup_record
from celery_fleet.common.redis_client import ClientError, Server
from celery_fleet.system import redis_backup, redis_snapshot
from tests.outage import wait_for
from tests.programs import required
from tests.support.redis_server import redis_server
from tests.unit.redis_backup.servers import (
    KINDS,
    PASSWORDS,
    Instances,
    content,
    fill,
    places,
    running,
)

# Without -B, a run with a limit on the size of files would leave damaged ones beside the code. -I ignores the variable.
PROGRAM = (sys.executable, "-S", "-I", "-B", redis_backup.__file__, "shop")


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instances]:
    with running(tmp_path_factory.mktemp("redis")) as found:
        fill(found)
        yield found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


def backed_up(
    tmp_path: Path, servers: Instances, monkeypatch: pytest.MonkeyPatch, now: float, **more: Any
) -> int:
    """Run the program at a time; return its exit status."""
    monkeypatch.setattr(redis_backup.time, "time", lambda: now)
    return redis_backup.main(["shop"], places(tmp_path, servers, **more))


def run_program(
    where: redis_backup.BackupPlaces, *command: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with the environment that systemd gives the program."""
    return subprocess.run(
        command, env=environment(where), capture_output=True, text=True, check=False
    )


def environment(where: redis_backup.BackupPlaces) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "STATE_DIRECTORY": str(where.state),
        "RUNTIME_DIRECTORY": str(where.runtime),
        "CREDENTIALS_DIRECTORY": str(where.credentials),
    }


def record(tmp_path: Path) -> backup_record.BackupRecord:
    found = backup_record.read(tmp_path / "state/last.json")
    assert found is not None
    return found


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.iterdir())


def sums(backup: Path) -> dict[str, str]:
    lines = (backup / "SHA256SUMS").read_text().splitlines()
    return {name: sha for sha, name in (line.split("  ") for line in lines)}


@pytest.mark.slow
def test_a_backup_has_everything(
    instances: Instances, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backed_up(tmp_path, instances, monkeypatch, 1767322800.0, to=str(target)) == 0
    (name,) = names(target)
    assert name == "shop-20260102T030000Z"
    backup = target / name
    assert names(backup) == ["SHA256SUMS", "broker.rdb", "results.rdb"]
    for file, sha in sums(backup).items():
        assert hashlib.sha256((backup / file).read_bytes()).hexdigest() == sha
        assert stat.S_IMODE((backup / file).stat().st_mode) == 0o600
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=backup, check=False)
    assert done.returncode == 0
    # A server that loads such a file has the same data.
    for kind in KINDS:
        own = tmp_path / f"again-{kind}"
        own.mkdir()
        (own / "dump.rdb").write_bytes((backup / f"{kind}.rdb").read_bytes())
        with redis_server(own) as server:
            assert content(server.client) == content(instances.client(kind))
    assert not (tmp_path / "state/making").exists()
    found = record(tmp_path)
    assert (found.succeeded, found.tried, found.name, found.error) == (
        *(1767322800.0, 1767322800.0),
        *(name, ""),
    )
    assert found.bytes == sum((backup / f"{kind}.rdb").stat().st_size for kind in KINDS)
    # Health, metrics and status read it as other users.
    assert stat.S_IMODE((tmp_path / "state/last.json").stat().st_mode) == 0o644


@pytest.mark.slow
def test_as_systemd_starts_it(instances: Instances, tmp_path: Path, target: Path) -> None:
    done = run_program(places(tmp_path, instances, to=str(target)), *PROGRAM)
    assert done.returncode == 0, done
    assert f"backed up to {names(target)[0]}" in done.stdout
    assert not [password for password in PASSWORDS.values() if password in done.stdout]


def test_its_user_may_do_nothing_else(instances: Instances) -> None:
    for kind, port in instances.ports.items():
        client = redis.Redis(port=port, username="backup", password=PASSWORDS["backup"])
        for words in (
            *(("GET", "x"), ("LRANGE", "mail", "0", "-1"), ("KEYS", "*"), ("SET", "x", "1")),
            *(("CONFIG", "GET", "*"), ("INFO",), ("BGSAVE",), ("REPLICAOF", "NO", "ONE")),
            *(("SHUTDOWN",), ("ACL", "LIST"), ("MONITOR",), ("PSYNC", "?", "-1")),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
        assert not instances.client(kind).exists("x")


def test_only_the_newest_stay(
    instances: Instances, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ["shop-notes", "shopping-20200101T000000Z", "other-20200101T000000Z"]
    for name in others:
        (target / name).mkdir()
        (target / name / "SHA256SUMS").touch()
    # What a backup that was killed has left counts as none.
    (target / ".shop-20190101T000000Z.part").mkdir()
    (target / "shop-20190101T000000Z").mkdir()
    for hour in range(5):
        now = 1767322800.0 + 3600 * hour
        assert backed_up(tmp_path, instances, monkeypatch, now, to=str(target)) == 0
    own = [f"shop-20260102T0{hour}0000Z" for hour in (5, 6, 7)]
    assert names(target) == sorted([*others, "shop-20190101T000000Z", *own])


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"password": "wrong-password"}, "WRONGPASS"),
        (
            {"instances": {"broker": {"host": "127.0.0.1", "port": 1}}},
            "broker 127.0.0.1:1: Connection refused",
        ),
        ({"flavor": "missing"}, "missing-check-rdb can't be run"),
        ({"encrypt_for": "no key"}, "gpg ended with status 2"),
        ({"to": "/nonexistent/place"}, "/nonexistent/place is not there"),
        ({"to": "", "command": ["false"]}, "false ended with status 1: no output"),
        ({"to": "", "command": ["/nonexistent"]}, "/nonexistent can't be run"),
        ({"to": "", "command": ["sh", "-c", "echo full; exit 3"]}, "ended with status 3: full"),
        ({"format": 2}, "its format is 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failed_backup_costs_no_earlier_one(
    instances: Instances,
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    more: dict[str, Any],
    error: str,
) -> None:
    good: dict[str, Any] = {"to": str(target), "keep": 1}
    assert backed_up(tmp_path, instances, monkeypatch, 1767322800.0, **good) == 0
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert backed_up(tmp_path, instances, monkeypatch, 1767326400.0, **{**good, **more}) == 1
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert names(target) == ["shop-20260102T030000Z"]
    found = record(tmp_path)
    assert (found.tried, found.succeeded, found.name) == (
        *(1767326400.0, 1767322800.0),
        "shop-20260102T030000Z",
    )
    assert error in found.error
    assert "<3>no backup: " in capfd.readouterr().out
    assert not (tmp_path / "state/making").exists()


def test_a_full_disk_costs_no_earlier_backup(
    instances: Instances, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files fails a write in the middle of the copy, as a full disk does."""
    assert backed_up(tmp_path, instances, monkeypatch, 1.0, to=str(target), keep=1) == 0
    where = places(tmp_path, instances, to=str(target), keep=1)
    done = run_program(where, "bash", "-c", f"ulimit -f 1; exec {' '.join(PROGRAM)}")
    assert (done.returncode, "File too large" in done.stdout) == (1, True), done
    assert names(target) == ["shop-19700101T000001Z"]
    assert record(tmp_path).succeeded == 1.0
    assert not (tmp_path / "state/making").exists()


def disk(free: int) -> os.statvfs_result:
    """Return what `statvfs` says of a disk of 100 GB with so many MB free."""
    return os.statvfs_result((10**6, 10**6, 100_000, free, free, 1, 1, 1, 0, 255))


@pytest.mark.parametrize(
    ("full_from", "words", "more"),
    [
        ("state/making", "4999 MB are free on the disk of ", {}),
        ("state/making/*/results.rdb", "4999 MB are free on the disk of ", {}),
        ("runtime/recipient.asc", "00Z, 0 MB are needed, and 5000 MB", {"encrypt_for": "no key"}),
        ("state/making/*/SHA256SUMS", "target, 0 MB are needed, and 5000 MB", {}),
    ],
    ids=["before", "meanwhile", "encryption", "target"],
)
def test_a_backup_leaves_room_on_the_disk_of_redis(
    instances: Instances,
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_from: str,
    words: str,
    more: dict[str, Any],
) -> None:
    """On a full disk Redis refuses tasks. Here it is full as soon as a file is there."""
    good: dict[str, Any] = {"to": str(target), "keep": 1}
    assert backed_up(tmp_path, instances, monkeypatch, 1767322800.0, **good) == 0
    monkeypatch.setattr(redis_backup, "DATA", tmp_path)
    with monkeypatch.context() as patched:

        def look(path: Path) -> os.statvfs_result:
            return disk(4_999 if [*tmp_path.glob(full_from)] else 6_000)

        patched.setattr(redis_snapshot.os, "statvfs", look)
        assert backed_up(tmp_path, instances, patched, 1767326400.0, **{**good, **more}) == 1
    assert words in record(tmp_path).error
    assert "5000 MB have to stay free for Redis" in record(tmp_path).error
    assert record(tmp_path).succeeded == 1767322800.0
    assert names(target) == ["shop-20260102T030000Z"]
    assert not (tmp_path / "state/making").exists()


def test_a_small_disk_keeps_more_than_its_share_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = os.statvfs_result((10**6, 10**6, 2_000, 249, 249, 1, 1, 1, 0, 255))
    monkeypatch.setattr(redis_snapshot.os, "statvfs", lambda path: small)
    with pytest.raises(redis_snapshot.SnapshotError, match="250 MB have to stay free"):
        redis_snapshot.need_room(tmp_path)


def test_a_snapshot_that_breaks_off_is_refused(tmp_path: Path) -> None:
    """Redis dies in the middle: the mark of the end never comes."""
    script = (
        "import socket, sys\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "c, _ = s.accept(); f = c.makefile('rb')\n"
        "for n in (5, 5):\n"
        "    for _ in range(7): f.readline()\n"
        "    c.sendall(b'+OK\\r\\n')\n"
        "for _ in range(3): f.readline()\n"
        "c.sendall(b'\\n\\n$EOF:' + b'a' * 40 + b'\\r\\n' + b'REDIS0010' * 1000)\n"
        "c.close()\n"
    )
    fake = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert fake.stdout is not None
    port = int(fake.stdout.readline())
    with pytest.raises(ConnectionError, match="in the middle of the snapshot"):
        redis_snapshot.take(Server("127.0.0.1", port), tmp_path / "x.rdb")
    fake.wait(10)
    fake.stdout.close()


def test_a_damaged_snapshot_is_refused(instances: Instances, tmp_path: Path) -> None:
    path = tmp_path / "x.rdb"
    server = Server(
        "127.0.0.1", instances.ports["broker"], user="backup", password=PASSWORDS["backup"]
    )
    assert redis_snapshot.take(server, path) == path.stat().st_size
    assert redis_snapshot.check("redis-check-rdb", path) == len(content(instances.client("broker")))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:-1],
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.raises(redis_snapshot.SnapshotError, match=r"finds x\.rdb damaged"):
            redis_snapshot.check("redis-check-rdb", path)


def test_a_server_without_the_right_is_named(instances: Instances, tmp_path: Path) -> None:
    server = Server(
        "127.0.0.1", instances.ports["broker"], user="operator", password=PASSWORDS["operator"]
    )
    with pytest.raises(ClientError, match="NOPERM"):
        redis_snapshot.take(server, tmp_path / "x.rdb")


@pytest.mark.slow
def test_an_encrypted_backup_can_be_read_with_the_private_key_only(
    instances: Instances, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpg = [required("gpg"), "--batch", "--quiet", "--homedir", str(tmp_path / "owner")]
    (tmp_path / "owner").mkdir(mode=0o700)
    unlocked = ["--passphrase", "", "--pinentry-mode", "loopback"]
    try:
        make = [*gpg, *unlocked, "--quick-generate-key", "owner", "default", "default", "never"]
        subprocess.run(make, check=True, capture_output=True)
        key = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
        given = {"to": str(target), "encrypt_for": key.decode()}
        assert backed_up(tmp_path, instances, monkeypatch, 1767322800.0, **given) == 0
        backup = target / "shop-20260102T030000Z"
        assert names(backup) == ["SHA256SUMS", "broker.rdb.gpg", "results.rdb.gpg"]
        for kind in KINDS:
            path = backup / f"{kind}.rdb"
            opened = subprocess.run(
                [*gpg, *unlocked, "--decrypt", f"{path}.gpg"], check=True, capture_output=True
            ).stdout
            # The list has both files, so the check works before and after.
            assert hashlib.sha256(opened).hexdigest() == sums(backup)[path.name]
            encrypted = Path(f"{path}.gpg").read_bytes()
            assert hashlib.sha256(encrypted).hexdigest() == sums(backup)[f"{path.name}.gpg"]
            assert b"REDIS" in opened
            assert b"REDIS" not in encrypted
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(tmp_path / "owner"), "--kill", "all"], check=False
        )


def test_a_command_gets_the_backup_and_what_it_is_about(
    instances: Instances, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'cp -r "$2" {target}; echo "$1 $CELERY_FLEET_APP $CELERY_FLEET_HOST" > {target}/said'
    command = ["sh", "-c", script, "store", "--quick"]
    assert backed_up(tmp_path, instances, monkeypatch, 1767322800.0, command=command) == 0
    assert names(target) == ["said", "shop-20260102T030000Z"]
    assert (target / "said").read_text() == "--quick shop redis1\n"
    assert names(target / "shop-20260102T030000Z") == ["SHA256SUMS", "broker.rdb", "results.rdb"]


def test_a_backup_that_systemd_ends_says_so_and_leaves_nothing(
    instances: Instances, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    command = ["sh", "-c", f"touch {begun}; exec sleep 60"]
    where = places(tmp_path, instances, command=command)
    with subprocess.Popen(PROGRAM, env=environment(where), start_new_session=True) as program:
        wait_for(begun.exists, "the command runs", 20)
        # As systemd does, which ends all processes of the unit.
        os.killpg(program.pid, signal.SIGTERM)
        assert program.wait(20) == 1
    assert "ended before it was done" in record(tmp_path).error
    assert record(tmp_path).succeeded == 0
    assert [path.name for path in where.state.iterdir()] == ["last.json"]


def test_a_damaged_record_is_replaced(
    instances: Instances, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    for text in ("", "{", '{"format": 2}', '{"format": 1, "tried": "x"}', "[]"):
        (tmp_path / "state/last.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            backup_record.read(tmp_path / "state/last.json")
    assert backed_up(tmp_path, instances, monkeypatch, 1.0, to=str(target)) == 0
    assert json.loads((tmp_path / "state/last.json").read_text())["succeeded"] == 1.0
