"""A backup that is restored into real Redis servers: the same data, and no step that loses any."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    RedisError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import Completed
from ansible_collections.celery_fleet.core.plugins.module_utils.restore import (
    data_directory,
    restoration,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.restore.restoration import (
    Restoration,
    RestoreHost,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.restore.staging import (
    RESERVE,
    discard,
    refuse_full,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.transport import pack, unpack
from ansible_collections.celery_fleet.core.plugins.modules.redis_restore import restorations
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.redis_backup import restored
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import backup_files

from celery_fleet.system import redis_backup
from tests.programs import DURABLE
from tests.support.redis_server import Server, redis_server
from tests.unit.redis_backup.servers import KINDS, content, fill, places, running

# What the roles configure for each kind.
OPTIONS = {"broker": DURABLE, "results": ("--appendonly", "no", "--save", "900 1 300 100")}
Data = dict[str, dict[bytes, Any]]


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    """Back up a fleet's data; return the backup and the data."""
    place = tmp_path_factory.mktemp("backup")
    (place / "target").mkdir()
    with running(place / "redis") as instances:
        fill(instances)
        where = places(place, instances, to=str(place / "target"))
        assert redis_backup.main(["shop"], where) == 0
        data = instances.data()
    (backup,) = (place / "target").iterdir()
    return backup, data


class NewHost:
    """A host with one instance that a fake systemd starts and stops: `systemctl` of the module's runner.

    Attributes:
        commands: The changing commands of systemd.
        before: Called before each command.
        mounts: Where something is mounted.
        room: How many bytes are free.
        restarts: How often systemd has restarted the unit, since it was started or the number was reset.
        loading: How many times a look still finds the unit starting.
    """

    def __init__(self, directory: Path, kind: str) -> None:
        self.data = directory
        self.kind = kind
        self.own = directory / f"shop-{kind}"
        self.own.mkdir(parents=True)
        self.server = Server(self.own, *OPTIONS[kind])
        self.server.start()
        self.commands: list[str] = []
        self.before: Callable[[str], None] = lambda verb: None
        self.mounts: frozenset[str] = frozenset()
        self.room = 2**30
        self.restarts = self.loading = 0

    def run(self, command: Sequence[str]) -> Completed:
        if command[0] != "systemctl":
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return Completed(done.returncode, done.stdout + done.stderr)
        verb = command[1]
        if verb == "show":
            state = "active" if self.server.running else "failed"
            if self.loading:
                self.loading -= 1
                state = "activating"
            properties = f"Id=x\nLoadState=loaded\nActiveState={state}\nSubState=x\n"
            return Completed(0, f"{properties}NRestarts={self.restarts}\n")
        if verb == "reset-failed":
            self.restarts = 0
            return Completed(0, "")
        self.commands.append(verb)
        self.before(verb)
        if verb == "stop":
            self.server.stop()
        elif not self.server.running:
            with suppress(AssertionError):
                self.server.start()
        return Completed(0, "")

    def talk(self, access: RedisAccess, commands: Sequence[Sequence[str]]) -> list[object]:
        # As RESP gives them, and not as redis-py parses them.
        self.server.client.set_response_callback("INFO", lambda answer: answer.decode())
        return [self.server.client.execute_command(*command) for command in commands]

    def restoration(
        self, backup: Path, access: Mapping[str, Any] = MappingProxyType({}), **more: Any
    ) -> Restoration:
        """Copy the snapshot as the role does, and return the restore of the instance, as the module makes it."""
        staging = self.data / f"shop-{self.kind}.restore"
        staging.mkdir(exist_ok=True)
        shutil.copy(backup / f"{self.kind}.rdb", staging / "snapshot.rdb")
        given = {
            "name": f"shop-{self.kind}",
            "sha256": hashlib.sha256((backup / f"{self.kind}.rdb").read_bytes()).hexdigest(),
            "size": (backup / f"{self.kind}.rdb").stat().st_size,
            "appendonly": self.kind == "broker",
            "flavor": "redis",
            "timeout": 20.0,
            "config": str(self.data / f"config/shop-{self.kind}/redis.conf"),
            "access": {
                "host": "127.0.0.1",
                "port": str(self.server.port),
                "ca": "",
                "user": "",
                "password": "",
                **access,
            },
        }
        host = RestoreHost(
            data=self.data,
            run=self.run,
            talk=self.talk,
            sleep=lambda _: None,
            now=lambda: 1767326400.0 + len(self.commands) - 1,
            owner=lambda path, user: None,
            mounts=self.mounts,
            free=lambda path: self.room,
        )
        (made,) = restorations(unpack(pack([{**given, **more}])), host).values()
        return made

    def content(self) -> dict[bytes, Any]:
        return content(self.server.client)


@pytest.fixture
def new_host(tmp_path: Path) -> Iterator[Callable[[str], NewHost]]:
    hosts: list[NewHost] = []

    def made(kind: str) -> NewHost:
        hosts.append(NewHost(tmp_path / kind, kind))
        return hosts[-1]

    yield made
    for host in hosts:
        host.server.stop()
        host.server.client.close()


New = Callable[[str], NewHost]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_host_has_the_same_data(kind: str, new_host: New, backed_up: Any) -> None:
    backup, data = backed_up
    host = new_host(kind)
    one = host.restoration(backup)
    keys = len(data[kind])
    assert one.check(overwrite=False) == {"state": "due", "keys": keys, "kept": ""}
    assert host.commands == []
    found = one.restore(overwrite=False)
    # An empty server has files as well, and they are kept.
    kept = str(host.data / f"shop-{kind}.before-20260102T040000Z")
    assert (found.pop("kept"), found.pop("changed")) == (kept, True)
    assert found == {"state": "done", "keys": keys, "loaded": keys, "expired": 0}
    assert host.content() == data[kind]
    # The next restart loads it as well, with what came since.
    host.server.client.lpush("mail", "since")
    host.server.stop()
    host.server.start()
    assert host.server.client.lpop("mail") == b"since"
    if kind == "broker":
        assert host.content() == data[kind]
    # A run that was interrupted after this instance leaves it as it is.
    again = one.restore(overwrite=False)
    assert again == {"state": "done", "changed": False, "keys": keys, "kept": kept}
    assert one.finish()
    assert not one.finish()
    assert {path.name for path in host.data.iterdir()} == {f"shop-{kind}", Path(kept).name}


@pytest.mark.slow
def test_restarts_of_a_crash_loop_before_do_not_count(new_host: New, backed_up: Any) -> None:
    """Damaged data makes a server crash at each start; systemd keeps its count when that is interrupted."""
    backup, data = backed_up
    host = new_host("broker")
    host.restarts, host.loading = 300, 1
    one = host.restoration(backup)
    assert one.restore(overwrite=True)["loaded"] == len(data["broker"])
    assert host.content() == data["broker"]


@pytest.mark.slow
def test_a_dump_beside_an_append_only_file_would_be_ignored(tmp_path: Path, backed_up: Any) -> None:
    """Why a snapshot becomes the base of the append-only file: with a dump.rdb this server starts empty."""
    backup, _ = backed_up
    shutil.copy(backup / "broker.rdb", tmp_path / "dump.rdb")
    with redis_server(tmp_path, *OPTIONS["broker"]) as server:
        assert server.client.dbsize() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_data_is_only_replaced_on_demand_and_kept(kind: str, new_host: New, backed_up: Any) -> None:
    backup, data = backed_up
    host = new_host(kind)
    host.server.client.set("mine", "x")
    one = host.restoration(backup)
    for step in (one.check, one.restore):
        with pytest.raises(UserError, match=r"has data \(1 keys\).*redis_restore_overwrite=true"):
            step(overwrite=False)
    host.server.stop()
    if kind == "results":  # Redis saves it when it stops only if enough has changed
        (host.own / "dump.rdb").write_bytes(b"")
    with pytest.raises(UserError, match=r"does not run, and there is data in .*overwrite=true"):
        one.check(overwrite=False)
    (host.own / "dump.rdb").unlink(missing_ok=True)
    host.server.start()
    host.server.client.set("mine", "x")
    host.server.client.bgsave()
    host.commands.clear()
    found = one.restore(overwrite=True)
    kept = host.data / f"shop-{kind}.before-20260102T040000Z"
    assert (found["kept"], found["loaded"]) == (str(kept), len(data[kind]))
    assert host.content() == data[kind]
    with redis_server(kept, *OPTIONS[kind]) as before:
        assert before.client.get("mine") == b"x"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("killed", ["stop", "prepared", "replaced", "start"])
def test_an_interrupted_restore_is_finished_by_the_next(
    kind: str, killed: str, new_host: New, backed_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, data = backed_up
    host = new_host(kind)
    host.server.client.set("mine", "x")
    one = host.restoration(backup)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    def at(verb: str) -> None:
        if verb == killed:
            raise Killed

    with monkeypatch.context() as patched:
        host.before = at
        if killed == "prepared":
            patched.setattr(one, "_replace", kill)
        elif killed == "replaced":
            written = one._write
            patched.setattr(
                one, "_write", lambda note: kill() if note["step"] == killed else written(note)
            )
        with pytest.raises(Killed):
            one.restore(overwrite=True)
    host.before = lambda verb: None
    # A host that was down meanwhile starts the instance itself.
    if killed == "start":
        host.server.start()
        host.server.client.lpush("mail", "since")
    again = host.restoration(backup)
    assert again.check(overwrite=False)["state"] == ("replaced" if killed == "start" else "due")
    found = again.restore(overwrite=False)
    assert (found["state"], found["loaded"]) == ("done", len(data[kind]))
    if killed == "start":  # what came since is not lost
        assert host.server.client.lpop("mail") == b"since"
    assert host.content() == data[kind]
    # What was there before is still there.
    assert [*host.data.glob(f"shop-{kind}.before-*")]


def test_a_damaged_copy_is_refused_before_anything_is_touched(
    new_host: New, backed_up: Any
) -> None:
    backup, _ = backed_up
    host = new_host("broker")
    one = host.restoration(backup, sha256="0" * 64)
    with pytest.raises(UserError, match="does not have the backup's checksum"):
        one.restore(overwrite=True)
    path = host.data / "shop-broker.restore/snapshot.rdb"
    path.write_bytes(path.read_bytes()[:-5])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    staged = host.restoration(backup, sha256=sha256)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="redis-check-rdb refuses the snapshot"):
        staged.restore(overwrite=True)
    assert host.commands == []
    assert not (host.data / "shop-broker.restore/note.json").exists()


@pytest.mark.parametrize("place", ["link", "mount"])
def test_a_directory_on_a_disk_of_its_own_is_refused_before_anything_is_touched(
    place: str, new_host: New, backed_up: Any
) -> None:
    """A mount can't be renamed. Of a link only the link would be, so the data would come to another disk."""
    backup, _ = backed_up
    host = new_host("broker")
    if place == "link":
        host.own.rename(host.data / "disk")
        host.own.symlink_to("disk")
    else:
        host.mounts = frozenset({str(host.own)})
    one = host.restoration(backup)
    message = f"shop-broker is a {place}, .* Nothing was changed. .* at {host.data}"
    for step in (one.check, one.begin, one.restore):
        with pytest.raises(UserError, match=message):
            step(overwrite=True)
    assert host.commands == []
    assert not (host.data / "shop-broker.restore/note.json").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_noticed_while_the_instance_serves(
    kind: str, new_host: New, backed_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, data = backed_up
    host = new_host(kind)
    one = host.restoration(backup)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        for step in (one.prepare, lambda: one.begin(True), lambda: one.restore(True)):
            with pytest.raises(OSError, match="No space left on device"):
                step()
    assert host.commands == []
    assert not (host.data / f"shop-{kind}.restore/note.json").exists()
    # Once it has begun, nothing is copied any more.
    one.begin(overwrite=True)
    monkeypatch.setattr(shutil, "copyfile", full)
    assert one.restore(overwrite=True)["loaded"] == len(data[kind])


def test_an_append_only_file_that_is_not_deployed_yet_is_refused(
    new_host: New, backed_up: Any
) -> None:
    host = new_host("results")
    config = host.data / "config/shop-results/redis.conf"
    config.parent.mkdir(parents=True)
    config.write_text("appendonly yes\n")
    with pytest.raises(UserError, match=r"`appendonly yes`, but the inventory has no.*site\.yml"):
        host.restoration(backed_up[0]).check(overwrite=False)
    assert host.commands == []
    config.write_text("appendonly no\n")
    assert host.restoration(backed_up[0]).check(overwrite=False)["state"] == "due"


def test_a_disk_without_room_is_refused_with_the_numbers(new_host: New, backed_up: Any) -> None:
    """The snapshot and the data directory each need room, until they are there."""
    backup, _ = backed_up
    host = new_host("broker")
    size = 40 * 2**20
    one = host.restoration(backup, size=size)
    about = RestoreHost(data=host.data, free=lambda path: host.room)
    host.room = 2 * size + RESERVE - 1
    with pytest.raises(UserError) as caught:
        refuse_full([one], about)
    assert f"{host.data} has 95 MiB free, and the restore needs 96 MiB there. Nothing was" in str(
        caught.value
    )
    host.room += 1
    refuse_full([one], about)
    with open(host.data / "shop-broker.restore/snapshot.rdb", "wb") as snapshot:
        snapshot.truncate(size)
    assert one.missing() == size
    one.prepare()
    host.room = 0
    refuse_full([one], about)


@pytest.mark.slow
def test_an_instance_that_does_not_start_is_named_with_the_way_back(
    new_host: New, backed_up: Any
) -> None:
    backup, _ = backed_up
    host = new_host("broker")
    host.server.client.set("mine", "x")
    host.server._argv.append("--no-such-option")
    one = host.restoration(backup)
    with pytest.raises(UserError) as caught:
        one.restore(overwrite=True)
    assert "redis@shop-broker.service does not serve after the restore" in str(caught.value)
    assert "shop-broker.before-20260102T040000Z" in str(caught.value)
    host.server._argv.pop()
    assert one.restore(overwrite=False)["state"] == "done"


def test_keys_that_are_missing_are_noticed(
    new_host: New, backed_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, data = backed_up
    host = new_host("results")
    one = host.restoration(backup)
    monkeypatch.setattr(data_directory, "make", lambda directory, *_: directory.mkdir())
    with pytest.raises(
        UserError, match=f"has loaded 0 keys .*the snapshot has {len(data['results'])}"
    ):
        one.restore(overwrite=False)


def test_an_instance_that_keeps_its_data_must_be_the_primary(new_host: New, backed_up: Any) -> None:
    backup, _ = backed_up
    host = new_host("results")
    one = host.restoration(backup, {"primary": "shop-results"})
    one.refuse_replica()
    host.server.client.execute_command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(UserError, match=r"redis@shop-results\.service keeps its data, and another"):
        one.refuse_replica()


def test_data_of_a_primary_elsewhere_is_not_given_up(new_host: New, backed_up: Any) -> None:
    """The first host does not run, or was cut off and still believes that it is the primary."""
    backup, _ = backed_up
    host = new_host("results")
    places = [{"host": f"redis{number}", "port": 26379} for number in (1, 2, 3)]
    named = {"redis1": "redis1", "redis2": "redis2", "redis3": None}
    own = host.talk

    def talk(access: RedisAccess, commands: Sequence[Sequence[str]]) -> list[object]:
        if commands[0][0] != "SENTINEL":
            return own(access, commands)
        if named[access.host] is None:
            raise RedisError("it did not answer")
        return [[named[access.host], "6379"]]

    host.talk = talk  # type: ignore[method-assign]  # it answers for Sentinels, too
    access = {"host": "redis1", "primary": "shop-results", "sentinels": places}
    one = host.restoration(backup, access)
    refusal = (
        r"The Sentinels name redis2 as the primary, but redis@shop-results\.service is not its"
    )
    with pytest.raises(UserError, match=refusal):
        one.check(overwrite=True)
    host.server.stop()
    with pytest.raises(UserError, match=refusal):
        one.check(overwrite=True)
    named["redis2"] = "redis1"
    assert one.check(overwrite=True)["state"] == "due"


def test_only_a_restore_that_has_not_begun_is_discarded(new_host: New, backed_up: Any) -> None:
    backup, _ = backed_up
    hosts = {kind: new_host(kind) for kind in KINDS}
    both = [hosts[kind].restoration(backup) for kind in KINDS]
    places = [hosts[kind].data / f"shop-{kind}.restore" for kind in KINDS]
    both[0].prepare()
    assert discard(both)
    assert not any(place.exists() for place in places)
    assert not discard(both)
    both = [hosts[kind].restoration(backup) for kind in KINDS]
    both[0].begin(overwrite=True)
    assert not discard(both)
    assert all((place / "snapshot.rdb").exists() for place in places)
    assert both[0].check(overwrite=False)["state"] == "due"


# --- on the control node -----------------------------------------------------------------------------


def test_a_whole_backup_is_read(backed_up: Any) -> None:
    backup, _ = backed_up
    found = backup_files.read(backup, "shop")
    assert [one["kind"] for one in found] == ["broker", "results"]
    for one in found:
        assert hashlib.sha256(Path(one["path"]).read_bytes()).hexdigest() == one["sha256"]
    instances = [
        {"kind": kind, "name": f"shop-{kind}", "appendonly": kind == "broker"}
        for kind in (*KINDS, "cache")
    ]
    units = [
        {
            "name": f"redis@shop-{kind}.service",
            "timeout": 300,
            "redis": {"port": number},
            "files": ["/c/users.acl", f"/c/{kind}/redis.conf"],
        }
        for number, kind in enumerate((*KINDS, "cache"))
    ]
    made = restored(found, instances, units, "redis")
    wanted = ("name", "appendonly", "access", "config")
    assert [tuple(one[key] for key in wanted) for one in made] == [
        ("shop-broker", True, {"port": 0}, "/c/broker/redis.conf"),
        ("shop-results", False, {"port": 1}, "/c/results/redis.conf"),
    ]
    with pytest.raises(ValueError, match="the backup has cache, but the fleet only broker"):
        restored([{"kind": "cache", "sha256": "", "size": 0}], instances, units, "redis")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "SHA256SUMS").unlink(), "is not a backup: it has no SHA256SUMS"),
        (lambda path: (path / "broker.rdb").unlink(), r"broker\.rdb is missing"),
        (
            lambda path: (path / "broker.rdb").rename(path / "broker.rdb.gpg"),
            "is encrypted.*gpg --decrypt-files",
        ),
        (
            lambda path: (path / "results.rdb").write_bytes(b"REDIS"),
            r"results\.rdb is damaged: its checksum",
        ),
        (lambda path: (path / "SHA256SUMS").write_text(""), "lists no snapshot"),
        (lambda path: (path / "SHA256SUMS").write_text("x ../../etc/passwd\n"), "another form"),
        (
            lambda path: (path / "SHA256SUMS").write_text(f"{'0' * 64}  ../x.rdb\n"),
            "another form",
        ),
        (shutil.rmtree, "is not a backup"),
    ],
)
def test_a_backup_that_can_not_be_used_is_refused(
    change: Callable[[Path], Any], message: str, tmp_path: Path, backed_up: Any
) -> None:
    copy = Path(shutil.copytree(backed_up[0], tmp_path / backed_up[0].name))
    change(copy)
    with pytest.raises(UserError, match=message):
        backup_files.read(copy, "shop")


def test_a_backup_may_have_one_instance(tmp_path: Path, backed_up: Any) -> None:
    copy = Path(shutil.copytree(backed_up[0], tmp_path / backed_up[0].name))
    sums = copy / "SHA256SUMS"
    # With the lines of encrypted files.
    more = [line + ".gpg" for line in sums.read_text().splitlines()]
    sums.write_text(sums.read_text() + "\n".join(more) + "\n")
    subprocess.run(["sed", "-i", r"/ broker\.rdb$/!d", sums], check=True)
    assert [one["kind"] for one in backup_files.read(copy, "shop")] == ["broker"]


@pytest.mark.parametrize("app", ["flash-promos", "shop-eu", "eu-shop", "Shop"])
def test_a_backup_of_another_application_is_refused_until_it_is_renamed(
    app: str, tmp_path: Path, backed_up: Any
) -> None:
    copy = Path(shutil.copytree(backed_up[0], tmp_path / f"{app}-20260102T030000Z"))
    (tmp_path / "shop-20260102T030000Z").symlink_to(copy)
    for path in (copy, tmp_path / "shop-20260102T030000Z"):
        with pytest.raises(UserError) as caught:
            backup_files.read(path, "shop")
        assert f"{copy} is a backup of {app}, but this inventory's application is shop" in str(
            caught.value
        )
        assert "rename the directory to shop-20260102T030000Z" in str(caught.value)
    (tmp_path / "shop-20260102T030000Z").unlink()
    assert backup_files.read(copy.rename(tmp_path / "shop-20260102T030000Z"), "shop")


@pytest.mark.parametrize("name", ["newest", "shop", "shop-20260102", "shop-20260102T030000Z.old"])
def test_a_directory_without_the_name_of_a_backup_is_refused(
    name: str, tmp_path: Path, backed_up: Any
) -> None:
    copy = Path(shutil.copytree(backed_up[0], tmp_path / name))
    with pytest.raises(UserError, match=rf"{name} does not have the name of .* shop-TIME, such as"):
        backup_files.read(copy, "shop")


def test_a_backup_may_be_the_current_directory(
    backed_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(backed_up[0])
    assert len(backup_files.read(Path(), "shop")) == 2


def test_the_module_knows_the_place_of_redis() -> None:
    assert str(redis_backup.DATA) == restoration.DATA
