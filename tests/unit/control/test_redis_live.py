"""Changes of a running Redis: which they are, and against a real server where one is installed."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fleet_control import redis_live
from fleet_control.fingerprint import Disk
from fleet_control.redis_live import (
    LIVE,
    Change,
    RedisError,
    change_between,
    parse_answers,
    redacted,
    surplus,
    takes_password,
    talk_by_cli,
    wanted_users,
)
from fleet_control.wanted import RedisAccess, Unit

from tests.unit.control.certificates import Authority

UNIT = Unit(
    "redis@a.service", files=("/r/redis.conf", "/r/users.acl", "/t/host.crt", "/t/host.key")
)
KNOWN = {
    "setting maxmemory": "256mb",
    "setting databases": "1",
    "setting save": "900 1; 300 100",
    "setting tls-cert-file": "/t/host.crt",
    "user worker": "1",
    "user default": "1",
    "file host.crt": "1",
    "file host.key": "1",
    "unit redis@.service": "1",
}


def change(**labels: str | None) -> Change | None:
    """The change where labels (`_` for a blank, `__` for a dash) have other values; nothing is gone."""
    names = {k.replace("__", "-").replace("_", " ", 1): v for k, v in labels.items()}
    wanted = {k: v for k, v in {**KNOWN, **names}.items() if v is not None}
    return change_between(KNOWN, wanted, UNIT)


def test_what_can_be_set_live() -> None:
    assert change(setting_maxmemory="512mb", setting_save="60 1; 30 5") == Change(
        {"maxmemory": "512mb", "save": "60 1 30 5"}
    )
    assert change(setting_timeout="5") == Change({"timeout": "5"}), "a new one"
    assert change(user_worker="2", user_beat="1") == Change(users=("beat", "worker"))
    assert change(user_worker=None) == Change(gone=("worker",))
    assert change(**{"file_host.crt": "2"}) == Change({"tls-cert-file": "/t/host.crt"})
    assert change() == Change()


@pytest.mark.parametrize(
    "label",
    [
        {"setting_databases": "2"},
        {"setting_requirepass": "x"},
        # What it would be without the directive only a start can tell.
        {"setting_maxmemory": None},
        {"setting_tls__port": "7000"},
        {"file_host.key": "2"},
        {"file_other.crt": "2"},
        {"unit_redis@.service": "2"},
        {"user_default": None},
        {"runtime": "2"},
    ],
    ids=str,
)
def test_what_takes_a_restart(label: Mapping[str, str | None]) -> None:
    assert change(**label) is None
    assert change(**label, setting_timeout="5") is None


def test_answers_in_the_form_of_redis_cli() -> None:
    commands = [["PING"], ["ACL", "GETUSER", "x"], ["CONFIG", "SET", "a", "hush"]]
    assert parse_answers('"PONG"\nnull\n"OK"\n', commands) == ["PONG", None, "OK"]
    with pytest.raises(RedisError, match=r"^it refused CONFIG SET: \"ERR no\"$"):
        parse_answers('"PONG"\nnull\nerror:"ERR no"\n', commands)
    with pytest.raises(RedisError, match=r"^it gave no answer to ACL GETUSER$"):
        parse_answers('"PONG"\n', commands)


def test_a_refused_rule_is_not_repeated_where_it_is_a_password() -> None:
    assert redacted("Error in '>hush': x") == "Error in '<secret>': x"
    assert redacted(f"bad #{'a' * 64}, +nosuch") == "bad <secret> +nosuch"
    assert redacted("argument must be a -> memory value") == "argument must be a -> memory value"


# --- against a real server ---------------------------------------------------------------------------

ADMIN = "user admin on >adm resetchannels -@all +ping +acl +config +info"
OFF = "user default off resetpass allkeys allchannels +@all"
WORKER = "on >w1 resetchannels -@all +ping +get ~a"


@dataclass
class Server:
    access: RedisAccess
    directory: Path

    def ask(self, *command: str) -> object:
        return talk_by_cli(self.access, [command])[0]

    def as_worker(self, password: str) -> bool:
        return takes_password(replace(self.access, user="worker", password=password), talk_by_cli)

    def apply(
        self, change: Change, rules: Mapping[str, str] | None = None, keep: bool = True
    ) -> None:
        redis_live.apply(self.access, change, rules or {}, keep=keep, talk=talk_by_cli)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("one")


def issue(directory: Path, authority: Authority) -> None:
    certificate, private = authority.issue(["DNS:localhost"])
    (directory / "host.crt").write_text(certificate)
    (directory / "host.key").write_text(private)
    (directory / "ca.crt").write_text(authority.pem)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    if not (shutil.which("redis-server") and Path("/usr/bin/redis-cli").exists()):
        pytest.skip("redis-server is not installed")
    directory = tmp_path_factory.mktemp("redis")
    issue(directory, authority)
    (directory / "users.acl").write_text(f"{OFF}\n{ADMIN}\nuser worker {WORKER}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "redis.conf").write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ntls-auth-clients no\ndir {directory}\nsave ''\n"
        f"tls-cert-file {directory}/host.crt\ntls-key-file {directory}/host.key\n"
        f"tls-ca-cert-file {directory}/ca.crt\naclfile {directory}/users.acl\nlogfile log\n"
    )
    process = subprocess.Popen(["redis-server", str(directory / "redis.conf")])
    access = RedisAccess("localhost", port, str(directory / "ca.crt"), "admin", "adm")
    try:
        deadline = time.monotonic() + 10
        while not takes_password(access, talk_by_cli):
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.05)
        yield Server(access, directory)
    finally:
        process.kill()
        process.wait()


def test_a_server_takes_every_directive_of_the_table(server: Server) -> None:
    # With the value that it has. TLS files are read anew by it.
    for name in sorted(LIVE):
        found = server.ask("CONFIG", "GET", name)
        assert isinstance(found, dict), name
        assert name in found, f"Redis knows no {name}"
        server.apply(Change({name: found[name]}))


def test_settings_are_set_together_or_not_at_all(server: Server) -> None:
    server.apply(Change({"maxmemory": "100mb", "save": "900 1 300 100", "tcp-keepalive": "61"}))
    assert server.ask("CONFIG", "GET", "maxmemory") == {"maxmemory": str(100 << 20)}
    assert server.ask("CONFIG", "GET", "save") == {"save": "900 1 300 100"}
    with pytest.raises(RedisError, match=r"user admin: it refused CONFIG SET: .*maxmemory-policy"):
        server.apply(Change({"tcp-keepalive": "62", "maxmemory-policy": "nosuch"}))
    assert server.ask("CONFIG", "GET", "tcp-keepalive") == {"tcp-keepalive": "61"}


def test_a_password_changes_beside_the_old_one_until_that_is_ended(server: Server) -> None:
    rules = {"worker": WORKER.replace(">w1", ">w2")}
    assert surplus(server.access, rules, talk_by_cli) == ["worker"]
    server.apply(Change(users=("worker",)), rules)
    assert [server.as_worker(word) for word in ("w1", "w2", "w3")] == [True, True, False]
    assert surplus(server.access, rules, talk_by_cli) == ["worker"]
    server.apply(Change(users=("worker",)), rules, keep=False)
    assert [server.as_worker(word) for word in ("w1", "w2")] == [False, True]
    assert surplus(server.access, rules, talk_by_cli) == []


def test_connections_of_others_stay_and_a_user_goes(server: Server) -> None:
    server.apply(Change(users=("extra",)), {"extra": "on >x +ping"})
    extra = replace(server.access, user="extra", password="x")
    assert takes_password(extra, talk_by_cli)
    server.apply(Change(gone=("extra",)))
    assert not takes_password(extra, talk_by_cli)


def test_a_rule_that_is_refused_leaves_the_user_as_it_was(server: Server) -> None:
    before = server.ask("ACL", "GETUSER", "worker")
    with pytest.raises(RedisError) as caught:
        server.apply(Change(users=("worker",)), {"worker": "on >hush +nosuch"})
    assert "it refused ACL SETUSER: " in str(caught.value)
    assert "hush" not in str(caught.value)
    assert server.ask("ACL", "GETUSER", "worker") == before


@pytest.mark.parametrize("password", ['with"quote', "with\\slash", "éñ", "a'b#>"])
def test_passwords_of_any_form_arrive(server: Server, password: str) -> None:
    server.apply(Change(users=("worker",)), {"worker": f"on >{password} +ping"}, keep=False)
    assert server.as_worker(password)


def test_a_user_without_password_stays_so(server: Server) -> None:
    server.apply(Change(users=("worker",)), {"worker": "on nopass +ping"})
    assert server.as_worker("anything")
    server.apply(Change(users=("worker",)), {"worker": WORKER}, keep=False)
    assert not server.as_worker("anything")


def presented(server: Server) -> str:
    return ssl.get_server_certificate(("localhost", server.access.port))


def test_a_renewed_certificate_is_read_without_a_restart(
    server: Server, authority: Authority
) -> None:
    before = presented(server)
    issue(server.directory, authority)
    assert presented(server) == before
    # In production the key stays: it reaches the process as a credential.
    key = {"tls-key-file": str(server.directory / "host.key")}
    server.apply(Change({"tls-cert-file": str(server.directory / "host.crt"), **key}))
    assert presented(server) == (server.directory / "host.crt").read_text()
    assert server.ask("PING") == "PONG"


def test_who_can_not_get_in_is_told_so(server: Server) -> None:
    wrong = replace(server.access, password="hush")
    with pytest.raises(RedisError, match=r"user admin: AUTH failed: WRONGPASS") as caught:
        talk_by_cli(wrong, [["PING"]])
    assert "hush" not in str(caught.value)
    nobody = replace(server.access, port=1)
    with pytest.raises(RedisError, match=r"localhost:1, .*refused"):
        talk_by_cli(nobody, [["PING"]])
    assert not takes_password(nobody, talk_by_cli)


def test_nothing_secret_is_in_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []

    def spy(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 0, '"OK"\n', "")

    monkeypatch.setattr(redis_live.subprocess, "run", spy)
    access = RedisAccess("h", 1, "/ca", "admin", "hush")
    talk_by_cli(access, [["ACL", "SETUSER", "worker", ">hush"]])
    assert "hush" not in " ".join(seen[0])


def test_users_are_read_from_the_acl_file(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    unit = Unit("r", files=(str(path), "/none/users.acl"))
    path.write_text("user a on >x\n")
    assert wanted_users(unit, Disk()) == {"a": "on >x"}
