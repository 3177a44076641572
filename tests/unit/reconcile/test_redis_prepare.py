"""What a run changes in a running Redis before it writes files, with a real server that it may restart."""

from __future__ import annotations

import getpass
import grp
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
    parse,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import Host
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reconciler import (
    HostReconciler,
    ReconcileOptions,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import talk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    takes_password,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    HostReport,
    ReconcileError,
)

from scripts.ports import free_port
from tests.programs import required
from tests.support.certificates import Authority
from tests.support.fake_systemd import FakeSystemd, State
from tests.support.host_paths import host_paths

pytestmark = pytest.mark.slow

UNIT = "redis@shop-broker.service"
OWNER = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}
ADMIN = "+acl +config +info +client +dbsize +bgsave"
KEYS = 100


class Server:
    """A host with a real server as its only unit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.data.mkdir()
        authority = Authority("one")
        certificate, private = authority.issue(["DNS:localhost"])
        for name, text in (("crt", certificate), ("key", private), ("ca", authority.pem)):
            (root / name).write_text(text)
        self.ports = {"": free_port(), "other": free_port()}
        self.process: subprocess.Popen[bytes] | None = None
        self.port, self.passwords = "", {"admin": "adm1", "worker": "w1"}
        self.appendonly, self.databases, self.rules = "no", "1", ADMIN
        self.unwritable: list[dict[str, Any]] = []
        self.systemd = FakeSystemd()
        self.systemd.on_start = self.start
        self.host = Host(
            run=self.systemd,
            paths=host_paths(root),
            sleep=self.sleep,
        )
        self.end = time.monotonic() + 60

    def sleep(self, seconds: float) -> None:
        assert time.monotonic() < self.end, "it waits without end"
        time.sleep(min(seconds, 0.05))

    def start(self, name: str = UNIT, state: State | None = None) -> None:
        """Restart the server with what is on disk, and wait until it has loaded its data."""
        self.stop()
        self.process = subprocess.Popen(
            [required("redis-server"), self.root / "redis.conf"], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while self.takes(*self.passwords.items()) != [True, True]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        if self.process:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(30)

    def access(self, user: str = "admin", password: str = "") -> RedisAccess:
        port, password = self.ports[self.port], password or self.passwords[user]
        return RedisAccess("localhost", port, str(self.root / "ca"), user, password)

    def takes(self, *logins: tuple[str, str]) -> list[bool]:
        return [takes_password(self.access(*login), talk) for login in logins]

    def wanted(self) -> dict[str, Any]:
        save = '""' if self.appendonly == "yes" else "900 1 300 100"
        conf = (
            f"port 0\ntls-port {self.ports[self.port]}\nbind 127.0.0.1\ntls-auth-clients no\n"
            f"tls-cert-file {self.root}/crt\ntls-key-file {self.root}/key\n"
            f"tls-ca-cert-file {self.root}/ca\naclfile {self.root}/users.acl\ndir {self.data}\n"
            f"databases {self.databases}\nappendonly {self.appendonly}\nsave {save}\n"
        )
        words = self.passwords
        users = (
            "user default off resetpass allkeys allchannels +@all\n"
            f"user worker on >{words['worker']} -@all +ping +set +get ~*\n"
            f"user admin on >{words['admin']} resetchannels -@all +ping {self.rules}\n"
        )
        access = self.access()
        return {
            "files": [
                *self.unwritable,
                {"dest": f"{self.root}/redis.conf", "content": conf, **OWNER},
                {"dest": f"{self.root}/users.acl", "content": users, "secret": True, **OWNER},
            ],
            "units": [
                {
                    "name": UNIT,
                    "on_change": "live",
                    "timeout": 3,
                    "files": [f"{self.root}/redis.conf", f"{self.root}/users.acl"],
                    "redis": {
                        "host": access.host,
                        "port": access.port,
                        "ca": access.ca,
                        "user": access.user,
                        "password": access.password,
                    },
                }
            ],
        }

    def reconcile(self, *, check: bool = False, apply: bool = True, **options: Any) -> HostReport:
        """Reconcile; without `apply`, end when the files are written, like a run that is killed."""
        parts = [("redis", parse(self.wanted()))]
        made = HostReconciler(parts, ReconcileOptions(**options), check=check, host=self.host)
        made.apply_files()
        made.plan_units()
        if apply:
            made.apply_units()
        return made.report

    def fill(self) -> None:
        commands = [["SET", f"key{number}", "1"] for number in range(KEYS)]
        assert talk(self.access("worker"), commands) == ["OK"] * KEYS

    def size(self) -> object:
        return talk(self.access(), [["DBSIZE"]])[0]


def actions(report: HostReport) -> list[str]:
    return [item.action for item in report.done]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop(kill=True)


def running(server: Server, appendonly: str) -> Server:
    """Return the server, started with this setting and filled."""
    server.appendonly = appendonly
    assert actions(server.reconcile()) == ["start"]
    server.fill()
    return server


BOTH = pytest.mark.parametrize(("before", "after"), [("no", "yes"), ("yes", "no")])


@BOTH
@pytest.mark.parametrize("reason", [{}, {"databases": "2"}, {"port": "other"}], ids=str)
def test_a_server_keeps_its_data_when_it_changes_how_it_stores_them(
    server: Server, before: str, after: str, reason: Mapping[str, str]
) -> None:
    running(server, before)
    server.appendonly = after
    for name, value in reason.items():
        setattr(server, name, value)
    action = "restart" if reason else "live"
    assert [item.action for item in server.reconcile(check=True).pending] == [action]
    assert actions(server.reconcile()) == [action]
    assert server.size() == KEYS
    # Back again, where both kinds of files are there.
    talk(server.access("worker"), [["SET", "one more", "1"]])
    server.appendonly, server.databases = before, "3"
    assert actions(server.reconcile()) == ["restart"]
    assert server.size() == KEYS + 1


@BOTH
@pytest.mark.parametrize("kill", [False, True])
def test_a_server_that_restarts_after_a_run_was_killed_keeps_its_data(
    server: Server, before: str, after: str, kill: bool
) -> None:
    running(server, before)
    server.appendonly = after
    server.reconcile(apply=False)
    server.stop(kill=kill)
    server.start()
    assert server.size() == KEYS
    server.systemd.crash(UNIT)
    assert server.size() == KEYS
    assert actions(server.reconcile()) in ([], ["live"], ["restart"])
    assert server.size() == KEYS


@BOTH
def test_a_stopped_server_is_not_started_without_its_data(
    server: Server, before: str, after: str
) -> None:
    running(server, before)
    server.stop()
    server.systemd.units[UNIT].state["ActiveState"] = "inactive"
    server.appendonly = after
    conf = (server.root / "redis.conf").read_text()
    for check in (True, False):
        with pytest.raises(ReconcileError) as caught:
            server.reconcile(check=check)
        assert f"{UNIT} does not run, and would start without its data" in str(caught.value)
        value = {"no": "false", "yes": "true"}[before]
        assert f"Set redis_broker_appendonly to {value} and run again" in str(caught.value)
    assert (server.root / "redis.conf").read_text() == conf
    # An application that was removed may have left its data.
    (server.root / "redis.conf").unlink()
    (server.root / f"state/records/{UNIT}.json").unlink()
    with pytest.raises(ReconcileError, match="would start without its data"):
        server.reconcile()
    server.appendonly = before
    assert actions(server.reconcile()) == ["start"]
    assert server.size() == KEYS


def test_a_server_that_can_t_store_its_data_keeps_its_files(server: Server) -> None:
    server.rules = ADMIN.replace("+config", "")
    running(server, "no")
    server.appendonly, server.databases = "yes", "2"
    conf = (server.root / "redis.conf").read_text()
    with pytest.raises(ReconcileError, match=r"can't change to appendonly yes: .*CONFIG SET"):
        server.reconcile()
    assert (server.root / "redis.conf").read_text() == conf


def block(server: Server, after: str) -> Path:
    """Put a directory in place of the server's file, so that it can't write it."""
    name = {"yes": "appendonlydir/appendonly.aof.1.base.rdb", "no": "dump.rdb"}[after]
    path = server.data / name
    (path / "not empty").mkdir(parents=True)
    return path


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_ends_if_the_server_can_t_write_an_append_only_file(
    server: Server, killed: bool
) -> None:
    running(server, "no")
    blocked = block(server, "yes")
    server.appendonly = "yes"
    if killed:
        # What a run has begun that did not see the end.
        talk(server.access(), [["CONFIG", "SET", "appendonly", "yes"]])
    for _ in range(2):
        with pytest.raises(ReconcileError, match=r"can't change to appendonly yes: .*writ"):
            server.reconcile()
    shutil.rmtree(blocked)
    assert actions(server.reconcile()) == ["live"]
    server.systemd.crash(UNIT)
    assert server.size() == KEYS


def test_a_broker_still_accepts_tasks_if_it_can_t_write_its_dump(server: Server) -> None:
    running(server, "yes")
    blocked = block(server, "no")
    server.appendonly = "no"
    with pytest.raises(ReconcileError, match=r"can't change to appendonly no: .*dump\.rdb"):
        server.reconcile()
    server.fill()
    shutil.rmtree(blocked)
    assert actions(server.reconcile()) == ["live"]


def stored(server: Server) -> list[object]:
    """Return how the server stores its data."""
    answers = talk(server.access(), [["CONFIG", "GET", name] for name in ("appendonly", "save")])
    return [value for one in answers if isinstance(one, dict) for value in one.values()]


@BOTH
@pytest.mark.parametrize("fails", [False, True])
def test_a_change_that_was_only_prepared_ends_when_it_is_taken_back(
    server: Server, before: str, after: str, fails: bool
) -> None:
    running(server, before)
    first = stored(server)
    server.appendonly = after
    if fails:
        block(server, after)
    else:
        # The server is prepared, and the run ends before it has written a file.
        server.unwritable = [{"dest": f"{server.root}/missing/file", "content": "", **OWNER}]
    with pytest.raises(ReconcileError):
        server.reconcile()
    assert (stored(server) == first) == fails
    server.unwritable, server.appendonly = [], before
    server.reconcile()
    assert stored(server) == first
    assert server.reconcile().pending == []


def test_a_server_that_can_t_be_asked_is_not_restarted_without_its_data(server: Server) -> None:
    running(server, "no")
    # Its file and the inventory have other passwords than the server.
    users = server.root / "users.acl"
    users.write_text(users.read_text().replace(">adm1", ">adm9"))
    server.passwords = {"admin": "adm2", "worker": "w2"}
    server.appendonly = "yes"
    with pytest.raises(ReconcileError, match="can't be asked, and would start without"):
        server.reconcile()
    server.appendonly = "no"
    report = server.reconcile()
    assert actions(report) == ["restart"]
    (warning,) = report.warnings
    assert warning.startswith(f"{UNIT} only takes new passwords since its restart: ")


def test_a_server_without_its_record_keeps_its_data_and_passwords(server: Server) -> None:
    running(server, "no")
    (server.root / f"state/records/{UNIT}.json").unlink()
    server.appendonly, server.passwords = "yes", {"admin": "adm2", "worker": "w2"}
    assert actions(server.reconcile()) == ["restart"]
    assert server.size() == KEYS
    assert server.takes(("worker", "w1"), ("worker", "w2")) == [True, True]
    assert actions(server.reconcile(finish=True)) == ["live"]
    assert server.takes(("worker", "w1"), ("worker", "w2")) == [False, True]


ALL = [("worker", "w1"), ("worker", "w2"), ("admin", "adm1"), ("admin", "adm2")]


@pytest.mark.parametrize("databases", ["1", "2"])
def test_all_passwords_can_change_at_once(server: Server, databases: str) -> None:
    running(server, "no")
    server.passwords, server.databases = {"admin": "adm2", "worker": "w2"}, databases
    action = "live" if databases == "1" else "restart"
    assert [item.action for item in server.reconcile(check=True).pending] == [action]
    assert server.takes(*ALL) == [True, False, True, False]
    assert actions(server.reconcile()) == [action]
    assert server.takes(*ALL) == [True, True, True, True]
    assert actions(server.reconcile(finish=True)) == ["live"]
    assert server.takes(*ALL) == [False, True, False, True]
    assert server.reconcile().pending == []


def test_leaked_passwords_can_all_end_at_once(server: Server) -> None:
    running(server, "no")
    server.passwords = {"admin": "adm2", "worker": "w2"}
    assert actions(server.reconcile(revoke=True)) == ["live"]
    assert server.takes(*ALL) == [False, True, False, True]


def test_a_password_that_was_only_prepared_ends_with_the_next_run(server: Server) -> None:
    running(server, "no")
    server.passwords = {"admin": "adm2", "worker": "w2"}
    server.unwritable = [{"dest": f"{server.root}/missing/file", "content": "", **OWNER}]
    with pytest.raises(ReconcileError, match="missing"):
        server.reconcile()
    server.unwritable = []
    assert server.takes(*ALL) == [True, False, True, True]
    server.passwords = {"admin": "adm1", "worker": "w1"}
    assert actions(server.reconcile(finish=True)) == ["live"]
    assert server.takes(*ALL) == [True, False, True, False]
