"""Changes of a running Redis: which ones are possible, and their effect on a real server."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import redis_live
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
    Unit,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    RedisError,
    redacted,
    talk,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    LIVE,
    LiveChange,
    change_between,
    marks,
    split,
    stage,
    takes_password,
    wanted_users,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl as desired_acl
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificates import Authority
from tests.support.redis_server import redis_server

ROOT = Path(__file__).resolve().parents[3]
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
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


def change(**labels: str | None) -> LiveChange | None:
    """Return the change if labels (`_` means a space, `__` a dash) have other values; None removes one."""
    names = {k.replace("__", "-").replace("_", " ", 1): v for k, v in labels.items()}
    wanted = {k: v for k, v in {**KNOWN, **names}.items() if v is not None}
    return change_between(KNOWN, wanted, UNIT, Disk())


def test_a_new_key_is_set_with_its_certificate() -> None:
    access = RedisAccess("h", 1, "/t/ca.crt", "admin", "adm", staged_key="/run/redis-a/host.key")
    own = {"setting tls-key-file": "/run/credentials/redis@a.service/host.key"}
    before = {**KNOWN, **own}
    wanted = {**before, "file host.key": "2", "file host.crt": "2"}
    found = change_between(before, wanted, replace(UNIT, on_change="live", redis=access), Disk())
    settings = {"tls-key-file": "/run/redis-a/host.key", "tls-cert-file": "/t/host.crt"}
    assert found == LiveChange(settings, key="/t/host.key")
    # If there is no place for the key, or no setting names it, only a restart applies it.
    assert change_between(before, wanted, UNIT, Disk()) is None
    assert (
        change_between(
            KNOWN,
            {**KNOWN, "file host.key": "2"},
            replace(UNIT, on_change="live", redis=access),
            Disk(),
        )
        is None
    )


def test_a_new_password_for_the_primary_is_set_live(tmp_path: Path) -> None:
    path = tmp_path / "login.conf"
    path.write_text("masteruser replica\nmasterauth new\n")
    unit = replace(UNIT, files=(*UNIT.files, str(path)))
    known = {**KNOWN, "setting masteruser": "1", "setting masterauth": "2"}
    found = change_between(known, {**known, "setting masterauth": "3"}, unit, Disk())
    assert found == LiveChange({"masterauth": "new"})
    # A message may show the change.
    assert "new" not in repr(found)
    assert change_between(known, {**known, "setting masteruser": "2"}, unit, Disk()) is None


def test_changes_that_can_be_made_live() -> None:
    assert change(setting_maxmemory="512mb", setting_save="60 1; 30 5") == LiveChange(
        {"maxmemory": "512mb", "save": "60 1 30 5"}
    )
    assert change(setting_timeout="5") == LiveChange({"timeout": "5"}), "a new one"
    # These two follow from maxmemory.
    assert change(setting_client__output__buffer__limit="replica 9 0 0") == LiveChange(
        {"client-output-buffer-limit": "replica 9 0 0"}
    )
    assert change(setting_repl__backlog__size="9") == LiveChange({"repl-backlog-size": "9"})
    assert change(user_worker="2", user_beat="1") == LiveChange(users=("beat", "worker"))
    assert change(user_worker=None) == LiveChange(gone=("worker",))
    assert change(**{"file_host.crt": "2"}) == LiveChange({"tls-cert-file": "/t/host.crt"})
    assert change() == LiveChange()


@pytest.mark.parametrize(
    "label",
    [
        {"setting_databases": "2"},
        {"setting_requirepass": "x"},
        # Only a start shows the value without the directive.
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
def test_changes_that_need_a_restart(label: Mapping[str, str | None]) -> None:
    assert change(**label) is None
    assert change(**label, setting_timeout="5") is None


def test_a_record_names_users_who_are_allowed_more_than_their_rules() -> None:
    assert split(KNOWN) == (KNOWN, [])
    marked = {**KNOWN, **marks(["worker", "old"])}
    assert marked != KNOWN
    assert split(marked) == (KNOWN, ["old", "worker"])


def test_a_refused_rule_is_not_shown_if_it_is_a_password() -> None:
    assert redacted("Error in '>hush': x") == "Error in '<secret>': x"
    assert redacted(f"bad #{'a' * 64}, +nosuch") == "bad <secret> +nosuch"
    assert redacted("argument must be a -> memory value") == "argument must be a -> memory value"


# --- against a real server ---------------------------------------------------------------------------

ADMIN = "user admin on >adm resetchannels -@all +ping +acl +config +info +client|kill"
OFF = "user default off resetpass allkeys allchannels +@all"
WORKER = "on >w1 resetchannels -@all +ping +get ~a"


@dataclass
class Server:
    access: RedisAccess
    directory: Path

    def ask(self, *command: str) -> object:
        return talk(self.access, [command])[0]

    def as_user(self, name: str, password: str) -> RedisAccess:
        return replace(self.access, user=name, password=password)

    def takes(self, *passwords: str, user: str = "worker") -> list[bool]:
        return [takes_password(self.as_user(user, word), talk) for word in passwords]

    def may(self, user: str, *command: str) -> bool:
        return self.ask("ACL", "DRYRUN", user, *command) == "OK"

    def apply(self, settings: Mapping[str, str] | None = None, **rules: str) -> tuple[str, ...]:
        """Apply these settings and users live, as in the middle of a run."""
        change = LiveChange(settings or {}, tuple(rules))
        return redis_live.apply(self.access, change, rules, talk)

    def finish(self, *gone: str, **rules: str) -> None:
        """Leave these users only the rights in their rules."""
        redis_live.finish(self.access, LiveChange(gone=gone), rules, rules, talk)


class Connection:
    """A connection that stays open, like a worker's."""

    def __init__(self, server: Server, user: str, password: str) -> None:
        context = ssl.create_default_context(cafile=server.access.ca)
        plain = socket.create_connection(("127.0.0.1", server.access.port), timeout=60)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._stream = self._socket.makefile("rb")
        assert self.ask(f"AUTH {user} {password}") == "+OK"

    def ask(self, command: str) -> object:
        """Return the answer to a command whose words contain no blanks."""
        self._socket.sendall(f"{command}\r\n".encode())
        return self.read()

    def read(self) -> object:
        """Return the server's next message; raise EOFError if it has closed the connection."""
        line = self._stream.readline().decode().rstrip()
        if not line:
            raise EOFError
        if line.startswith("*"):
            return [self.read() for _ in range(int(line[1:]))]
        if line.startswith("$"):
            size = int(line[1:])
            return None if size < 0 else self._stream.read(size + 2).decode().rstrip()
        return line

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("one")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("redis")
    authority.install(directory, "DNS:localhost")
    users = f"{OFF}\n{ADMIN}\nuser worker {WORKER}\n"
    with redis_server(directory, users=users, tls=directory) as running:
        ca = str(directory / "ca.crt")
        access = RedisAccess("localhost", running.tls_port, ca, "admin", "adm")
        assert takes_password(access, talk)
        yield Server(access, directory)


def test_a_server_accepts_every_directive_of_the_table(server: Server) -> None:
    # The value stays the same. This also makes it read TLS files again.
    for name in sorted(LIVE):
        found = server.ask("CONFIG", "GET", name)
        assert isinstance(found, dict), name
        assert name in found, f"Redis knows no {name}"
        server.apply({name: found[name]})


def test_the_template_writes_every_directive_of_the_table() -> None:
    text = (ROOT / "templates/redis/redis.conf.j2").read_text()
    assert {line.split()[0] for line in text.splitlines() if line[:1].islower()} >= LIVE


def test_settings_are_set_together_or_not_at_all(server: Server) -> None:
    server.apply({"maxmemory": "100mb", "save": "900 1 300 100", "tcp-keepalive": "61"})
    assert server.ask("CONFIG", "GET", "maxmemory") == {"maxmemory": str(100 << 20)}
    assert server.ask("CONFIG", "GET", "save") == {"save": "900 1 300 100"}
    with pytest.raises(RedisError, match=r"user admin: it refused CONFIG SET: .*maxmemory-policy"):
        server.apply({"tcp-keepalive": "62", "maxmemory-policy": "nosuch"})
    assert server.ask("CONFIG", "GET", "tcp-keepalive") == {"tcp-keepalive": "61"}


@pytest.fixture
def fresh(server: Server) -> Iterator[Server]:
    """Return the server; afterwards restore all users from its file."""
    yield server
    users = server.ask("ACL", "USERS")
    assert isinstance(users, list)
    server.finish(*{*users} - {"admin", "default"}, worker=WORKER)


@pytest.fixture
def old(fresh: Server) -> Iterator[Connection]:
    """Return a worker's connection that was opened before any change."""
    connection = Connection(fresh, "worker", "w1")
    yield connection
    connection.close()


def test_a_new_password_is_added_and_old_ones_work_until_the_end(fresh: Server) -> None:
    for word in ("w2", "w3"):
        assert fresh.apply(worker=WORKER.replace("w1", word)) == ("worker",)
    assert fresh.takes("w1", "w2", "w3", "w4") == [True, True, True, False]
    fresh.finish(worker=WORKER.replace("w1", "w3"))
    assert fresh.takes("w1", "w2", "w3") == [False, False, True]


def test_a_password_that_others_know_ends_at_once_with_its_connections(
    fresh: Server, old: Connection
) -> None:
    rules = {"worker": WORKER.replace("w1", "w2")}
    assert redis_live.revoke(fresh.access, LiveChange({}, ("worker",)), [], rules, talk) == ()
    assert fresh.takes("w1", "w2") == [False, True]
    with pytest.raises((EOFError, OSError)):
        old.ask("PING")


def test_a_restarted_server_still_takes_what_it_took_before(fresh: Server) -> None:
    before = redis_live.rights(fresh.access, ["worker", "nobody"], talk)
    rules = {"worker": WORKER.replace("w1", "w2"), "other": WORKER}
    # A server starts with what is in its file.
    fresh.finish(**rules)
    assert fresh.takes("w1", "w2") == [False, True]
    redis_live.keep(fresh.access, before, rules, talk)
    assert fresh.takes("w1", "w2") == [True, True]
    fresh.finish(**rules)
    assert fresh.takes("w1", "w2") == [False, True]


def test_a_connected_client_keeps_its_keys_until_the_end(fresh: Server, old: Connection) -> None:
    rules = "on >w1 resetchannels -@all +ping +get ~b"
    fresh.apply(worker=rules)
    assert [old.ask(f"GET {key}") for key in "ab"] == [None, None]
    assert str(old.ask("GET c")).startswith("-NOPERM")
    fresh.finish(worker=rules)
    assert str(old.ask("GET a")).startswith("-NOPERM")
    assert old.ask("GET b") is None
    assert old.ask("PING") == "+PONG"


# Commands of the delivery that Celery does not send; every client sends HELLO.
DELIVERY = (
    "EVALSHA {sha} 1 fleet:x",
    "HGET fleet:x a",
    "HEXISTS unacked a",
    "HLEN fleet:x",
    "RPOP mail",
    "BLMOVE mail mail RIGHT RIGHT 0.01",
    "LTRIM mail 0 1",
    "HSCAN unacked 0",
    "ZCARD fleet:y",
    "ZSCAN unacked_index 0",
    "CLIENT TRACKING off",
)
ADDED = {
    *("+client|tracking", "+blmove", "+rpop", "+hexists", "+hlen", "+hscan", "+ltrim"),
    *("+zcard", "+zscan", "~fleet:*"),
}


@pytest.mark.parametrize("back", [False, True])
def test_a_running_fleet_gets_the_rights_of_the_delivery_before_its_workers_restart(
    fresh: Server, back: bool
) -> None:
    """On the way back it keeps them until the last worker that needs them has stopped."""
    acl = desired_acl.acl("broker", {"worker": "w1"}, ["mail"]).splitlines()[1]
    new = acl.removeprefix("user worker ")
    assert set(new.split()) >= ADDED
    bare = " ".join(word for word in new.split() if word not in ADDED)
    before, after = (new, bare) if back else (bare, new)
    fresh.finish(worker=before)
    running = Connection(fresh, "worker", "w1")
    sha = running.ask("SCRIPT LOAD \"return redis.call('hlen', KEYS[1])\"")

    def refused() -> list[str]:
        answers = {command: str(running.ask(command.format(sha=sha))) for command in DELIVERY}
        return [command for command, answer in answers.items() if answer.startswith("-NOPERM")]

    assert refused() == ([] if back else list(DELIVERY))
    fresh.ask("ACL", "LOG", "RESET")
    fresh.apply(worker=after)
    assert refused() == []
    log = fresh.ask("ACL", "LOG")
    assert isinstance(log, list)
    assert [entry for entry in log if entry["username"] == "worker"] == []
    fresh.finish(worker=after)
    assert refused() == (list(DELIVERY) if back else [])
    running.close()


def test_remote_control_of_producers_is_switched_on_and_off_live(fresh: Server) -> None:
    """Its rules are a selector, which has several words in SETUSER."""
    off, on = (
        desired_acl.acl("broker", {"producer": "p"}, ["mail"], remote_control=given)
        .splitlines()[1]
        .removeprefix("user producer ")
        for given in (False, True)
    )
    fresh.apply(producer=off)
    for rules in (on, off):
        fresh.apply(producer=rules)
        assert fresh.may("producer", "PUBLISH", "/0.celery.pidbox", "{}")
        assert fresh.may("producer", "DEL", "x.reply.celery.pidbox")
        assert not fresh.may("producer", "DEL", "mail")
        fresh.finish(producer=rules)
        for command in (("PUBLISH", "/0.celery.pidbox", "{}"), ("DEL", "x.reply.celery.pidbox")):
            assert fresh.may("producer", *command) is (rules == on)
        assert fresh.may("producer", "LPUSH", "mail", "x")


def test_a_subscriber_keeps_its_channel_until_the_end(fresh: Server) -> None:
    rules = "on >l resetchannels -@all +ping +subscribe"
    fresh.apply(listener=f"{rules} &x")
    connection = Connection(fresh, "listener", "l")
    assert connection.ask("SUBSCRIBE x") == ["subscribe", "x", ":1"]
    fresh.apply(listener=f"{rules} &y")
    assert connection.ask("PING") == ["pong", ""]
    assert connection.ask("SUBSCRIBE y") == ["subscribe", "y", ":2"]
    fresh.finish(listener=f"{rules} &y")
    # Redis has no other way to end a subscription.
    with pytest.raises(EOFError):
        connection.ask("PING")
    connection.close()


def test_a_removed_user_is_deleted_at_the_end(fresh: Server, old: Connection) -> None:
    gone = LiveChange(gone=("worker",))
    assert redis_live.apply(fresh.access, gone, {}, talk) == ("worker",)
    assert fresh.takes("w1") == [True]
    assert old.ask("GET a") is None
    fresh.finish("worker")
    assert fresh.takes("w1") == [False]
    with pytest.raises(EOFError):
        old.ask("GET a")


def test_a_new_user_has_its_rules_at_once_and_no_other_is_changed(
    fresh: Server, old: Connection
) -> None:
    before = fresh.ask("ACL", "GETUSER", "worker")
    assert fresh.apply(extra="on >x +ping") == ()
    assert fresh.takes("x", user="extra") == [True]
    assert fresh.ask("ACL", "GETUSER", "worker") == before
    assert old.ask("PING") == "+PONG"


# Rules before and after; what is allowed in between; and what is never allowed.
UNIONS = {
    "a new command and an old key": (
        "+get ~a",
        "+set ~b",
        ["GET a", "SET b 1"],
        ["SET a 1", "GET b"],
    ),
    "reading and writing": (
        "+get +set %R~a",
        "+get +set %W~a",
        ["GET a", "SET a 1"],
        ["SET a 1 GET", "GET b"],
    ),
    "a command that is taken away": (
        "+@all -flushall allkeys",
        "+@all -set -flushall allkeys",
        ["SET a 1", "GET a"],
        ["FLUSHALL"],
    ),
    "a category that is taken away": (
        "+get ~a",
        "+@all -@dangerous ~b",
        ["GET a", "INCR b"],
        ["KEYS b", "INCR a", "GET c"],
    ),
    "a subcommand": (
        "+config|get",
        "+config -config|get",
        ["CONFIG GET a", "CONFIG SET a 1"],
        ["GET a"],
    ),
    "selectors": (
        "+get ~a (+set ~z)",
        "+get ~b (+del ~c)",
        ["GET a", "SET z 1", "GET b", "DEL c"],
        ["DEL z", "SET c 1", "SET a 1"],
    ),
    "channels": ("+publish &x", "+publish &y", ["PUBLISH x 1", "PUBLISH y 1"], ["PUBLISH z 1"]),
    "all of it": ("allcommands allkeys allchannels", "+get ~a", ["FLUSHALL", "PUBLISH x 1"], []),
    "letters and patterns": (
        "+get ~é??[369] ~a)b ~(c",
        "+get ~b",
        ["GET éxy3", "GET a)b", "GET (c"],
        ["GET é"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", UNIONS)
def test_in_between_a_user_may_do_exactly_what_old_or_new_rules_allow(
    fresh: Server, case: str
) -> None:
    before, after, allowed, refused = UNIONS[case]
    before, after = (f"on >w resetchannels -@all {rules}" for rules in (before, after))
    fresh.apply(user=before, twin=after)
    sizes = []
    # Repeated, as if several runs were interrupted.
    for _ in range(3):
        fresh.apply(user=after)
        found = [command for command in (*allowed, *refused) if fresh.may("user", *command.split())]
        assert found == allowed
        sizes.append(len(str(fresh.ask("ACL", "GETUSER", "user"))))
    assert sizes[1] == sizes[2], "kept rules must not accumulate"
    fresh.finish(user=after)
    assert fresh.ask("ACL", "GETUSER", "user") == fresh.ask("ACL", "GETUSER", "twin")


@pytest.mark.parametrize(
    ("before", "after", "meanwhile", "then"),
    [
        ("on >w1", "off", "w1", ""),
        ("off >w1", "on >w2", "w2", "w2"),
        ("on >w1", "on nopass", "w1 w2 any", "w1 w2 any"),
        ("on nopass", "on >w2", "w1 w2 any", "w2"),
        ("on nopass", "off", "w1 w2 any", ""),
        ("on >w1", "on nopass >w2", "w1 w2", "w2"),
        ("on >w1", "on nopass resetpass >w2", "w1 w2", "w2"),
    ],
)
def test_old_logins_work_until_the_end(
    fresh: Server, before: str, after: str, meanwhile: str, then: str
) -> None:
    def taken() -> str:
        words = ("w1", "w2", "any")
        return " ".join(word for word, took in zip(words, fresh.takes(*words), strict=True) if took)

    fresh.finish(worker=f"{before} +ping")
    fresh.apply(worker=f"{after} +ping")
    assert taken() == meanwhile
    fresh.finish(worker=f"{after} +ping")
    assert taken() == then


def test_a_refused_rule_does_not_change_the_user(fresh: Server) -> None:
    before = fresh.ask("ACL", "GETUSER", "worker")
    with pytest.raises(RedisError) as caught:
        fresh.apply(worker="on >hush +nosuch")
    assert "it refused ACL SETUSER: " in str(caught.value)
    assert "hush" not in str(caught.value)
    assert fresh.ask("ACL", "GETUSER", "worker") == before


@pytest.mark.parametrize("password", ['with"quote', "with\\slash", "éñ", "a'b#>"])
def test_passwords_may_have_any_characters(fresh: Server, password: str) -> None:
    fresh.finish(worker=f"on >{password} +ping")
    assert fresh.takes(password) == [True]


def presented(server: Server) -> str:
    return ssl.get_server_certificate(("localhost", server.access.port))


def test_a_renewed_certificate_is_loaded_without_a_restart(
    server: Server, authority: Authority
) -> None:
    before = presented(server)
    authority.install(server.directory, "DNS:localhost")
    assert presented(server) == before
    # In production the key stays, because the process has it as a credential.
    key = {"tls-key-file": str(server.directory / "host.key")}
    server.apply({"tls-cert-file": str(server.directory / "host.crt"), **key})
    assert presented(server) == (server.directory / "host.crt").read_text()
    assert server.ask("PING") == "PONG"


def test_a_new_key_is_loaded_without_a_restart_or_a_lost_connection(
    server: Server, authority: Authority, old: Connection
) -> None:
    """The file of the key that a running server got at its start can't be replaced."""
    identity = old.ask("CLIENT ID")
    staged = server.directory / "run/host.key"
    staged.parent.mkdir()
    certificate, private = authority.issue(["DNS:localhost"])
    (server.directory / "new.crt").write_text(certificate)
    (server.directory / "new.key").write_text(private)
    stage(str(server.directory / "new.key"), str(staged))
    assert (staged.stat().st_mode & 0o777, staged.read_text()) == (0o400, private)
    files = {"tls-cert-file": str(server.directory / "new.crt"), "tls-key-file": str(staged)}
    server.apply(files)
    assert presented(server) == certificate
    assert old.ask("CLIENT ID") == identity
    # It works again with the file that is there now.
    stage(str(server.directory / "host.key"), str(staged))
    server.apply({**files, "tls-cert-file": str(server.directory / "host.crt")})
    assert presented(server) == (server.directory / "host.crt").read_text()
    server.apply({"tls-key-file": str(server.directory / "host.key")})
    with pytest.raises(RedisError, match=r"its new key can't be put at /nowhere/host\.key"):
        stage(str(server.directory / "new.key"), "/nowhere/host.key")


@pytest.mark.timeout(20)
def test_a_pipe_that_the_servers_user_has_made_holds_up_nothing(tmp_path: Path) -> None:
    """The directory is that user's, so root may open no name there that it can guess."""
    target = tmp_path / "host.key"
    for name in (f"host.key.{os.getpid()}", "host.key.new"):
        os.mkfifo(tmp_path / name)
    redis_live.put(str(target), b"key", 0o400)
    assert (target.stat().st_mode & 0o777, target.read_bytes()) == (0o400, b"key")
    os.unlink(target)
    os.mkfifo(target)
    redis_live.put(str(target), b"key", 0o400)
    assert target.read_bytes() == b"key"


def test_the_client_shows_a_certificate_if_the_server_asks_for_one(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    certificate, private = authority.issue(["DNS:worker1"], purposes=[CLIENT])
    (tmp_path / "client.crt").write_text(certificate)
    (tmp_path / "client.key").write_text(private)
    pair = {"certificate": str(tmp_path / "client.crt"), "key": str(tmp_path / "client.key")}
    shown = replace(server.access, **pair)
    server.apply({"tls-auth-clients": "optional"})
    assert takes_password(server.access, talk)
    assert takes_password(shown, talk)
    # Requiring certificates does not disconnect clients without one.
    standing = Connection(server, "admin", "adm")
    server.apply({"tls-auth-clients": "yes"})
    try:
        assert not takes_password(server.access, talk)
        assert takes_password(shown, talk)
        assert standing.ask("PING") == "+PONG"
        (tmp_path / "client.crt").write_text(Authority("one").issue(["DNS:worker1"])[0])
        assert not takes_password(shown, talk)
    finally:
        (tmp_path / "client.crt").write_text(certificate)
        assert talk(shown, [["CONFIG", "SET", "tls-auth-clients", "no"]]) == ["OK"]
        standing.close()


def test_both_authorities_are_trusted_while_one_takes_over(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    """The bundle is set live in the three steps, each with clients of both authorities."""
    new = Authority("two")
    pairs = []
    for number, one in enumerate((authority, new)):
        certificate, private = one.issue(["DNS:worker1"])
        paths = [tmp_path / f"{number}.crt", tmp_path / f"{number}.key"]
        paths[0].write_text(certificate)
        paths[1].write_text(private)
        pairs.append(replace(server.access, certificate=str(paths[0]), key=str(paths[1])))

    def let_in() -> list[bool]:
        return [takes_password(access, talk) for access in pairs]

    bundle = server.directory / "ca.crt"
    reread = {"tls-ca-cert-file": str(bundle)}
    server.apply({"tls-auth-clients": "yes"})
    through = pairs[0]
    try:
        assert let_in() == [True, False]
        bundle.write_text(authority.pem + new.pem)
        talk(through, [["CONFIG", "SET", *next(iter(reread.items()))]])
        assert let_in() == [True, True]
    finally:
        bundle.write_text(authority.pem)
        talk(through, [["CONFIG", "SET", *next(iter(reread.items()))]])
        talk(through, [["CONFIG", "SET", "tls-auth-clients", "no"]])
    assert let_in() == [True, True]


def test_a_failed_login_or_connection_is_an_error(server: Server) -> None:
    wrong = replace(server.access, password="hush")
    with pytest.raises(RedisError, match=r"user admin: AUTH failed: WRONGPASS") as caught:
        talk(wrong, [["PING"]])
    assert "hush" not in str(caught.value)
    nobody = replace(server.access, port=1)
    with pytest.raises(RedisError, match=r"localhost:1, .*refused"):
        talk(nobody, [["PING"]])
    assert not takes_password(nobody, talk)


def test_a_server_with_another_name_does_not_get_the_password(
    server: Server, authority: Authority
) -> None:
    """Otherwise any certificate of a company's authority would be accepted."""
    other, key = authority.issue(["DNS:worker7.example"])
    (server.directory / "other.crt").write_text(other)
    (server.directory / "other.key").write_text(key)
    heard = []

    def listen() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.directory / "other.crt", server.directory / "other.key")
        with (
            suppress(ssl.SSLError),
            listener.accept()[0] as plain,
            context.wrap_socket(plain, server_side=True) as stream,
        ):
            heard.append(stream.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(RedisError, match=r"user admin: .*Hostname mismatch"):
            talk(replace(server.access, port=listener.getsockname()[1]), [["PING"]])
        thread.join(10)
    assert heard in ([], [b""])


@pytest.mark.parametrize(
    "words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+no end", b"$9\r\nshort"]
)
def test_a_server_that_is_no_redis_is_an_error(server: Server, words: bytes) -> None:
    def listen() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.directory / "host.crt", server.directory / "host.key")
        with (
            listener.accept()[0] as plain,
            context.wrap_socket(plain, server_side=True) as stream,
        ):
            stream.recv(4096)
            stream.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(RedisError, match="gave no answer to HELLO 3"):
            talk(replace(server.access, port=listener.getsockname()[1]), [["PING"]])
        thread.join(10)


def test_each_kind_of_reply_is_read(server: Server) -> None:
    assert talk(server.access, [["PING"], ["ACL", "GETUSER", "nobody"]]) == ["PONG", None]
    (information,) = talk(server.access, [["INFO", "server"]])
    assert str(information).startswith("# Server\r\n")


def test_users_are_read_from_the_acl_file(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    unit = Unit("r", files=(str(path), "/none/users.acl"))
    path.write_text("user a on >x\n")
    assert wanted_users(unit, Disk()) == {"a": "on >x"}
