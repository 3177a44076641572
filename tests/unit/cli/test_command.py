"""The operator's command, called by its command line, on a host in a directory."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.x509.oid import ExtendedKeyUsageOID

from celery_fleet.cli import application, ask, units
from celery_fleet.cli.commands import logs, redis, status
from celery_fleet.cli.errors import CommandError
from celery_fleet.cli.main import Whole, cli
from celery_fleet.cli.stream import Stream
from celery_fleet.common import systemctl
from celery_fleet.common.small_file import LARGEST_OF_BEAT
from scripts.ports import free_port
from tests.support.certificates import Authority
from tests.support.redis_server import redis_server
from tests.unit.cli import host
from tests.unit.cli.conftest import Call, unit

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[dict[str, Any]]:
    """Replace the release's Python by an answer; return the list of its questions."""
    seen: list[dict[str, Any]] = []

    def question(where: object, name: str, **request: Any) -> Any:
        seen.append({"question": name, **request})
        return answer

    monkeypatch.setattr(ask, "question", question)
    return seen


def worker(*queues: str, **more: Any) -> dict[str, Any]:
    return {"state": "consuming", "queues": list(queues), "processes": 2, "running": 1, **more}


WELL = {
    "workers": {"mail@worker1": worker("mail"), "bulk@worker1": worker("bulk", "slow")},
    "queues": {"bulk": 0, "mail": 3, "slow": 0},
}


# --- which application ---


def test_the_hosts_only_application_need_not_be_named(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, WELL)
    for argv in (("status",), ("--app", "shop", "status"), ("status", "--app", "shop")):
        assert call(*argv).exit_code == 0


def test_one_of_several_applications_has_to_be_named(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.install(place, "blog")
    answers(monkeypatch, WELL)
    done = call("status")
    assert done.exit_code == 2
    assert "this host has several applications, blog, shop: add --app NAME" in done.stderr
    assert '"app": "blog"' in call("--app", "blog", "--format", "json", "status").stdout
    done = call("--app", "nosuch", "status")
    assert (done.exit_code, "has no such application; it has blog, shop" in done.stderr) == (
        2,
        True,
    )


def test_a_host_without_an_application(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "CONFIGURATION", tmp_path)
    done = call("status")
    assert (done.exit_code, "there is no application" in done.stderr) == (3, True)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 9}'])
def test_a_broken_cli_json_is_reported(place: Path, call: Call, text: str) -> None:
    (place / "etc/shop/cli.json").write_text(text)
    done = call("status")
    assert (done.exit_code, "cli.json can't be read" in done.stderr) == (3, True)
    assert done.stderr.count("\n") == 1


# --- status ---


def test_status_if_all_is_well(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = answers(monkeypatch, WELL)
    entry = {"name": "nightly", "task": "shop.n", "queue": "mail", "due": "2026-01-02T03:00:00Z"}
    later = {**entry, "name": "later", "due": "2026-01-02T04:00:00Z"}
    (place / "schedule.json").write_text(json.dumps({"entries": [later, entry]}))
    done = call("status")
    assert done.exit_code == 0
    for text in ("shop-worker@mail", "bulk, slow", "Next due: nightly", "All is well."):
        assert text in done.stdout
    assert seen == [
        {
            "question": "workers",
            "expected": ["mail@worker1", "bulk@worker1"],
            "queues": ["bulk", "mail", "slow"],
            "dead_letters": True,
            "detailed": False,
        }
    ]
    assert "Dead letters" not in done.stdout
    found = json.loads(call("status", "--format", "json").stdout)
    assert (found["ok"], found["problems"], found["due"]) == (True, [], entry)
    assert found["queues"]["mail"] == {"waiting": 3, "consumers": 1}
    assert [one["name"] for one in found["units"]] == [
        "shop-worker@mail.service",
        "shop-worker@bulk.service",
    ]


@pytest.mark.parametrize(("number", "shown"), [(3, True), (0, False), (None, False)])
def test_status_counts_dead_letters(
    place: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    number: int | None,
    shown: bool,
) -> None:
    answers(monkeypatch, {**WELL, "dead_letters": number})
    done = call("status")
    # Dead letters stay until an operator deals with them, and nothing stops because of them.
    assert done.exit_code == 0
    words = "Dead letters: 3; to see them: celery-fleet dead-letters list"
    assert (words in done.stdout) == shown
    assert json.loads(call("status", "--format", "json").stdout)["dead_letters"] == number


def test_status_names_what_is_wrong(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"workers": {"bulk@worker1": worker("bulk")}, "queues": {"mail": 9, "bulk": 0}}
    answers(monkeypatch, answer)
    monkeypatch.setattr(
        units, "show", lambda names: [unit(names[0], "failed"), *map(unit, names[1:])]
    )
    done = call("status", "--format", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"] == [
        "shop-worker@mail.service is failed (consuming mail)",
        "worker mail@worker1 does not answer",
        "worker bulk@worker1 does not consume slow",
        "no worker consumes queue mail, where 9 tasks wait",
    ]


def test_status_of_a_full_broker(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"workers": {}, "queues": {"mail": 90, "bulk": 0}, "full": "the broker is full"}
    answers(monkeypatch, answer)
    done = call("status")
    assert done.exit_code == 1
    assert ["mail", "90", "-"] in [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.endswith("Problem: the broker is full\n")
    assert json.loads(call("status", "--format", "json").stdout)["problems"] == [
        "the broker is full"
    ]


def test_a_worker_that_drains_is_no_problem(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = {"mail.next@worker1": worker("mail")}
    leaving = {"mail@worker1": worker(state="draining")}
    answer = {**WELL, "workers": {**WELL["workers"], **leaving, **following}}
    answers(monkeypatch, answer)
    done = call("status")
    assert (done.exit_code, "mail.next@worker1" in done.stdout) == (0, True)


@pytest.mark.usefixtures("patient")
def test_status_with_the_broker_down_says_so_and_shows_the_units(place: Path, call: Call) -> None:
    host.release(place)
    done = call("status")
    assert done.exit_code == 3
    assert "shop-worker@mail" in done.stdout
    assert "the broker can't be asked: 127.0.0.1:1" in done.stderr


@pytest.mark.slow
def test_status_with_a_broker_that_hangs(place: Path, call: Call) -> None:
    host.release(place)
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = place / "etc/shop/credentials/operator.json"
        path.write_text(json.dumps(host.settings(port=server.getsockname()[1])))
        began = time.monotonic()
        done = call("status")
        assert (
            time.monotonic() - began < ask.BOUND + 10
        )  # a busy machine needs longer than the limit
        assert (done.exit_code, "shop-worker@mail" in done.stdout) == (3, True)
        # With time to spare, the error is that of the connection, not that of the limit.
        assert "the broker can't be asked: 127.0.0.1:" in call("status", "--timeout", "60").stderr


def test_status_on_a_host_without_the_operators_credentials(place: Path, call: Call) -> None:
    document = host.document(place, host="redis1", units=["redis@shop-broker.service"])
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    done = call("status")
    assert done.exit_code == 0
    assert "from a host with a release, such as worker1" in done.stdout
    assert done.stdout.endswith("The units of this host are well.\n")


def test_status_of_a_host_without_a_deploy(place: Path, call: Call) -> None:
    done = call("status")
    assert done.exit_code == 3
    assert "shop has no release on worker1" in done.stderr


def test_units_as_systemctl_shows_them() -> None:
    text = (
        "Id=a.service\nLoadState=loaded\nActiveState=active\nSubState=running\nStatusText=x = y\n"
        "StateChangeTimestamp=@1700000000\nNRestarts=2\n\n"
        "Id=b.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nStatusText=\n"
        "StateChangeTimestamp=\nNRestarts=0\n"
    )
    first, second = map(units.status_of, systemctl.parse(text))
    assert (first.ok, first.status, first.restarts) == (True, "x = y", 2)
    assert first.as_dict()["since"] == "2023-11-14T22:13:20+00:00"
    assert (second.ok, second.active, second.since) == (False, "missing", None)


# --- credentials ---


def test_a_user_who_may_not_read_credentials_is_told_how(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for argv, what in (
        (("exec", "--", "true"), "run commands as the application's user"),
        (("schedule", "-n", "2"), f"read {place}/etc/shop/credentials/beat.json"),
        (("stop",), "stop services"),
        (("health", "--now"), "run the check"),
    ):
        done = call(*argv)
        assert done.exit_code == 3
        assert f"only root may {what}: " in done.stderr
        assert done.stderr.endswith(f": sudo celery-fleet {' '.join(argv)}\n")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "no")

    monkeypatch.setenv("CELERY_FLEET_APP", "shop")
    # sudo removes the variable.
    done = call("exec", "--", "x", "--app", "y")
    assert done.stderr.endswith(": sudo celery-fleet --app shop exec -- x --app y\n")
    done = call("exec", "--app=shop", "--", "true")
    assert done.stderr.endswith(": sudo celery-fleet exec --app=shop -- true\n")
    monkeypatch.setenv("CELERY_FLEET_TIMEOUT", "30")
    done = call("exec", "--", "true")
    assert done.stderr.endswith(": sudo celery-fleet --app shop --timeout 30 exec -- true\n")
    monkeypatch.setattr(Path, "exists", lambda path: True)
    found = host.application(place)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Exception, match="only root may read"):
        found.settings()


# --- exec ---


def test_exec_becomes_the_script_that_runs_commands(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def execv(path: str, argv: list[str]) -> None:
        seen.append(argv)
        raise SystemExit(7)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    words = ("celery", "inspect", "active", "--help", "-h")
    options = ("--as", "operator", "--release", "r1", "--timeout", "5")
    assert call("exec", *options, "--", *words).exit_code == 7
    script = f"{host.SOURCE}/celery_fleet/system/exec.py"
    assert seen == [
        ["/usr/bin/python3", "-S", "-I", script, "--app", "shop", *options, "--", *words]
    ]


def test_a_time_limit_is_rounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of messages: `no answer within 6.3 s`."""
    seen: list[float] = []

    def run(where: object, module: str, request: dict[str, Any], timeout: float) -> Any:
        seen.extend((request["timeout"], timeout))
        return {"ok": True, "answer": None}

    monkeypatch.setattr(ask, "run_module", run)
    with ask.bounded("it", 8.33101990816021):
        ask.question(host.application(place), "workers")
    assert seen == [6.3, 11.3]


def test_a_long_timeout_is_passed_on_unchanged(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def execv(path: str, argv: list[str]) -> None:
        seen.append(argv)
        raise SystemExit(0)

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        seen.append(argv)
        return subprocess.CompletedProcess(argv, 0, "{}", "")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(subprocess, "run", run)
    call("exec", "--timeout", "12345678", "--", "true")
    ask.in_release(host.application(place), "beat", ["true"], 12345678)
    assert [argv[argv.index("--timeout") + 1] for argv in seen] == ["12345678", "12345678"]


def test_no_example_prints_the_whole_environment(call: Call) -> None:
    """It has the application's secrets."""
    texts = [call("exec", "--help").stdout]
    texts += [path.read_text() for path in (host.SOURCE.parent / "docs").glob("*.md")]
    for text in texts:
        assert not re.search(r"celery-fleet.* -- (env|printenv)\b", text)


# --- inspect ---


def test_inspect(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"id": "1-2", "name": "shop.add", "time_start": 1700000000.0, "worker_pid": 5}
    seen = answers(monkeypatch, {"mail@worker1": [task], "bulk@worker1": []})
    done = call("inspect", "active")
    assert done.exit_code == 0
    assert "shop.add" in done.stdout
    assert "2023-11-14 22:13:20 UTC" in done.stdout
    assert seen[0]["expected"] == ["mail@worker1", "bulk@worker1"]
    assert json.loads(call("inspect", "active", "--format", "json").stdout)["mail@worker1"] == [
        task
    ]


def test_inspect_names_workers_that_do_not_answer(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {"mail@worker1": {"ok": "pong"}})
    done = call("inspect", "ping")
    assert done.exit_code == 1
    assert "pong" in done.stdout
    assert "no answer from bulk@worker1 within 2 s" in done.stderr
    assert call("inspect", "ping", "-d", "mail@worker1").exit_code == 0
    done = call("inspect", "ping", "-d", "nobody@nowhere")
    assert (done.exit_code, "no answer from nobody@nowhere" in done.stderr) == (1, True)


@pytest.mark.parametrize("method", ["conf", "stats", "report", "clock", "reserved", "scheduled"])
def test_inspect_shows_any_answer(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for reply in (
        {"a": {"b": [1, {"c": None}], "ok": "x\ny"}},
        [{"request": {"id": "i"}}],
        [],
        "no",
    ):
        answers(monkeypatch, {"mail@worker1": reply, "bulk@worker1": reply})
        assert call("inspect", method).exit_code == 0


@pytest.mark.usefixtures("patient")
def test_inspect_with_the_broker_down(place: Path, call: Call) -> None:
    host.release(place)
    done = call("inspect", "active")
    assert done.exit_code == 3
    assert done.stderr.startswith("celery-fleet: the broker can't be asked: 127.0.0.1:1")
    assert done.stdout == ""


@pytest.mark.parametrize(
    "argv",
    [
        ("inspect",),
        ("inspect", "nothing"),
        ("inspect", "active", "something"),
        ("inspect", "query_task"),
        ("inspect", "ping", "--timeout", "0"),
        ("--timeout", "0.5", "status"),
        ("status", "--timeout", "soon"),
        ("redis",),
        ("redis", "results"),
        ("redis", "--as", "root", "--", "ping"),
        ("exec",),
        ("exec", "--as", "beat", "--", "true"),
        ("logs", "mail"),
        ("logs", "beat", "more"),
        ("logs", "worker", "nobody"),
        ("logs", "-n", "0"),
        ("logs", "--task", "--output=cat"),
        ("logs", "--task", "a b"),
        ("schedule", "-n", "0"),
        ("nothing",),
        ("--format", "xml", "status"),
    ],
)
def test_a_usage_error_exits_with_2(place: Path, call: Call, argv: tuple[str, ...]) -> None:
    done = call(*argv)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


# --- questions ---


def test_questions_are_answered_without_a_terminal(place: Path) -> None:
    """Otherwise the application's user could type into root's terminal."""
    python = host.release(place) / "venv/bin/python"
    text = "import json, os; print(json.dumps({'ok': True, 'answer': os.getsid(0)}))"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{text}"\n')
    assert ask.question(host.application(place), "workers") != os.getsid(0)


def test_a_python_that_cant_be_run_is_one_line(place: Path) -> None:
    (host.release(place) / "venv/bin/python").unlink()
    found = host.application(place)
    words = "^the release's Python can't be run: .*/venv/bin/python'; run site.yml again$"
    with pytest.raises(CommandError, match=words):
        ask.question(found, "workers")
    with pytest.raises(CommandError, match=words):
        Stream(found, "celery_fleet.ops.monitoring", {})


# --- redis ---


def fake_redis_cli(place: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = place / "redis-cli"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setattr(redis.shutil, "which", lambda name, path: f"{place}/redis-cli")


def test_redis_by_the_right_user_over_tls(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_redis_cli(place, monkeypatch, f'echo "$@"; echo "$REDISCLI_AUTH" >{place}/auth')
    assert call("redis", "--", "ping").exit_code == 0
    # The real Redis is tested below.
    # On a disk that is full, /tmp can't be written to.
    assert re.fullmatch(r"-s /run/\S+/redis -e --user operator ping\n", capfd.readouterr().out)
    assert (place / "auth").read_text().strip() == host.PASSWORD
    assert call("redis", "results", "--", "info", "memory").exit_code == 0
    assert capfd.readouterr().out.endswith(" -e --user operator info memory\n")


def test_redis_uses_valkeys_client_if_there_is_no_other(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_redis_cli(place, monkeypatch, "echo valkey")
    monkeypatch.setattr(
        redis.shutil,
        "which",
        lambda name, path: f"{place}/redis-cli" if name == "valkey-cli" else None,
    )
    assert call("redis", "--", "ping").exit_code == 0
    assert capfd.readouterr().out == "valkey\n"


def test_redis_as_admin_only_works_on_the_host_with_its_password(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_redis_cli(place, monkeypatch, f'echo "$REDISCLI_AUTH" >{place}/auth')
    done = call("redis", "--as", "admin", "--", "acl", "log")
    assert (done.exit_code, "run this on redis1" in done.stderr) == (3, True)
    path = place / "redis/shop-broker/users.acl"
    path.parent.mkdir(parents=True)
    path.write_text(
        "user default off\nuser operator on >other x\nuser admin on >hush -@all +ping\n"
    )
    assert call("redis", "--as", "admin", "--", "acl", "log").exit_code == 0
    assert (place / "auth").read_text() == "hush\n"


def test_a_redis_that_refuses_or_hangs_or_is_down(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_redis_cli(place, monkeypatch, "exit 1")
    assert call("redis", "--", "ping").exit_code == 1
    fake_redis_cli(place, monkeypatch, "exec sleep 20")
    done = call("redis", "--timeout", "0.3", "--", "ping")
    assert done.exit_code == 3
    assert "broker redis1:6379: no answer within 0.3 s" in done.stderr
    assert "; see systemctl status redis@shop-broker.service on redis1" in done.stderr
    monkeypatch.setattr(redis.shutil, "which", lambda name, path: None)
    done = call("redis", "--", "ping")
    assert (done.exit_code, "apt install redis-tools" in done.stderr) == (3, True)


def test_a_redis_that_is_down_is_named_with_its_unit(place: Path, call: Call) -> None:
    document = host.document(place)
    where = {"host": "127.0.0.1", "port": free_port()}
    document["redis"]["instances"]["broker"] |= where
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    (place / "ca.crt").write_text(Authority("fleet").pem)
    done = call("redis", "--", "ping")
    assert done.exit_code == 3
    assert "can't be reached: " in done.stderr
    assert "; see systemctl status redis@shop-broker.service on 127.0.0.1" in done.stderr


def test_a_redis_with_replicas_may_be_asked_on_any_of_its_hosts(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = host.document(place)
    sentinels = [{"host": f"redis{number}", "port": free_port()} for number in (1, 2, 3)]
    broker = document["redis"]["instances"]["broker"] | {
        "name": "shop-broker",
        "sentinels": [{**one, "host": "127.0.0.1"} for one in sentinels],
    }
    document["redis"]["instances"]["broker"] = broker
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    done = call("redis", "--", "ping")
    assert "the primary of the broker is not known: " in done.stderr
    assert "systemctl status shop-sentinel redis@shop-broker.service on 127.0.0.1" in done.stderr
    broker["sentinels"] = sentinels
    found = host.application(place, redis=document["redis"]).redis["broker"]
    monkeypatch.setattr(redis.shutil, "which", lambda name, path: None)
    with pytest.raises(CommandError, match="run this on redis1, redis2, redis3, or apt install"):
        redis.line(host.application(place), found, redis.Login("operator", ""), ["ping"])
    with pytest.raises(CommandError, match="on hosts of Redis; run this on redis1, redis2, redis3"):
        redis.login(host.application(place), found, "admin")


@pytest.fixture
def real(place: Path) -> Iterator[Callable[..., None]]:
    """Run a real server with TLS that asks for certificates; return a function that writes it into `cli.json`."""
    authority = Authority("fleet")
    authority.install(place, "DNS:localhost")
    certificate, key = authority.issue(["DNS:worker1"], purposes=[CLIENT])
    (place / "client.crt").write_text(certificate)
    (place / "client.key").write_text(key)

    def named(address: str = "localhost", **client: str) -> None:
        path = place / "etc/shop/cli.json"
        document = json.loads(path.read_text())
        document["redis"]["instances"]["broker"] |= {"host": address, "port": server.tls_port}
        document["redis"]["client"] = {name: str(place / file) for name, file in client.items()}
        path.write_text(json.dumps(document))

    users = f"user operator on >{host.PASSWORD} +ping +echo +command\nuser default off\n"
    with redis_server(place, "--tls-auth-clients", "yes", users=users, tls=place) as server:
        yield named


def test_redis_by_the_real_redis_cli(
    call: Call,
    real: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Test an answer, a command that is refused, and a login that fails."""
    real(certificate="client.crt", key="client.key")
    assert call("redis", "--", "ping").exit_code == 0
    assert capfd.readouterr().out == "PONG\n"
    long = "x" * 100_000
    assert call("redis", "--", "echo", long).exit_code == 0
    assert capfd.readouterr().out == f"{long}\n"
    assert call("redis", "--", "get", "x").exit_code == 1
    monkeypatch.setattr(redis, "login", lambda *_: redis.Login("operator", "wrong"))
    assert call("redis", "--", "ping").exit_code == 1


def test_a_redis_with_another_name_gets_no_password(call: Call, real: Callable[..., None]) -> None:
    real("127.0.0.1", certificate="client.crt", key="client.key")
    done = call("redis", "--", "ping")
    assert done.exit_code == 3
    assert "broker 127.0.0.1:" in done.stderr
    assert "certificate is not valid for '127.0.0.1'" in done.stderr


def test_a_redis_that_asks_for_a_certificate_gets_one(
    call: Call, real: Callable[..., None]
) -> None:
    real()
    assert call("redis", "--", "ping").exit_code != 0
    real(certificate="client.crt", key="client.key")
    assert call("redis", "--", "ping").exit_code == 0


# --- schedule ---


def test_schedule(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    due = {"local": "2026-11-21T19:00:00-05:00", "utc": "2026-11-22T00:00:00+00:00"}
    about = {"task": "shop.n", "queue": None, "schedule": "crontab 0 19 * * *"}
    entry = {"name": "nightly", **about, "due": [due, due], "error": None}
    found = {"ok": True, "error": None, "timezone": "America/Guayaquil", "entries": [entry]}
    seen: list[tuple[Any, ...]] = []

    def in_release(where: object, *asked: Any) -> Any:
        seen.append(asked)
        return found

    monkeypatch.setattr(ask, "in_release", in_release)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = call("schedule")
    assert (done.exit_code, "run this on the host of beat: control1" in done.stderr) == (3, True)
    (place / "etc/shop/credentials/beat.json").write_text("{}")
    done = call("schedule", "-n", "2")
    assert done.exit_code == 0
    for text in ("due (America/Guayaquil)", "2026-11-21 19:00:00      2026-11-22 00:00:00\n"):
        assert text in done.stdout
    assert seen[0][0] == "beat"
    assert seen[0][1][-4:] == ["--count", "2", "--loaded", f"{place}/schedule.json"]
    assert json.loads(call("schedule", "--format", "json").stdout)["entries"] == [entry]
    found["timezone"] = "UTC"
    assert call("schedule").stdout.count("due (UTC)") == 1
    found["entries"] = [{**entry, "due": [], "error": "ValueError: x"}]
    assert call("schedule").exit_code == 1
    found.update(ok=False, error="application shop can't be loaded: x")
    done = call("schedule")
    assert (done.exit_code, done.stderr) == (
        3,
        "celery-fleet: application shop can't be loaded: x\n",
    )


def test_errors_of_exec_reach_the_operator(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = host.application(place, runtime="/no/such/runtime")
    with pytest.raises(CommandError, match="ended with status 2 and no answer"):
        ask.in_release(found, "beat", ["python", "-m", "celery_fleet.beat.due"], 5)
    done = subprocess.CompletedProcess([], 125, "", "celery-fleet exec: no release\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(CommandError, match=r"^no release$"):
        ask.in_release(found, "beat", ["true"], 5)


# --- logs ---


def test_logs_from_the_journal(place: Path) -> None:
    found = host.application(place)
    both = ["--unit=shop-worker@mail.service", "--unit=shop-worker@bulk.service"]
    base = ["journalctl", "--no-pager"]
    assert logs.line(found, (), False, None, None) == [*base, "--lines=200", *both]
    assert logs.line(found, ("worker",), False, 5, None) == [*base, "--lines=5", *both]
    assert logs.line(found, ("worker", "bulk"), True, None, "-1h") == [
        "journalctl",
        "--follow",
        "--since=-1h",
        both[1],
    ]


def test_logs_of_a_task(place: Path, tmp_path: Path) -> None:
    found = host.application(place)
    both = ["--unit=shop-worker@mail.service", "--unit=shop-worker@bulk.service"]
    assert logs.line(found, (), False, None, None, "7-7") == [
        *("journalctl", "--no-pager"),
        *(*both, "CELERY_TASK_ID=7-7"),
    ]
    files = {"destination": "file", "directory": str(tmp_path)}
    found = host.application(place, logs=files, units=["shop-worker@mail.service"])
    for name, age in (
        ("celery_mail.log", 0),
        ("celery_mail.log.2.gz", 9),
        ("celery_mail.log.1", 5),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "celery_mailer.log").touch()
    search = ["zgrep", "--no-filename", "--text", "--fixed-strings", "--regexp", "7-7", "--"]
    assert logs.line(found, (), False, None, None, "7-7") == [
        *search,
        *(str(tmp_path / f"celery_mail.log{end}") for end in (".2.gz", ".1", "")),
    ]
    with pytest.raises(Exception, match="--task searches all log files of shop"):
        logs.line(found, (), False, 5, None, "7-7")


def test_logs_from_files(place: Path) -> None:
    files = {"destination": "file", "directory": "/var/log/shop"}
    found = host.application(
        place, logs=files, units=["shop-worker@mail.service", "shop-beat.service"]
    )
    paths = ["/var/log/shop/celery_mail.log", "/var/log/shop/celery_beat.log"]
    assert logs.line(found, (), False, None, None) == ["tail", "--lines=200", *paths]
    follow = ["tail", "--lines=9", "--follow=name", "--retry", paths[1]]
    assert logs.line(found, ("beat",), True, 9, None) == follow
    with pytest.raises(Exception, match="--since only works with the journal"):
        logs.line(found, ("beat",), False, None, "-1h")


def test_a_terminal_gets_no_escape_sequence_from_a_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "celery_mail.log"
    path.write_bytes(b"a\x1b[2Jb\xff\n\tc\n")
    assert logs.printed(["tail", str(path)]) == 0
    assert capfd.readouterr().out == "a\ufffd[2Jb\ufffd\n\tc\n"
    assert logs.printed(["tail", str(tmp_path / "gone")]) == 1


def test_only_a_terminal_has_logs_filtered(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def execv(path: str, argv: list[str]) -> None:
        seen.append(argv)
        raise SystemExit(0)

    def printed(argv: list[str]) -> int:
        seen.append(["filtered", *argv[1:]])
        return 0

    document = host.document(place, units=["shop-beat.service"])
    document["logs"]["destination"] = "file"
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(logs, "printed", printed)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    call("logs", "beat")
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stdout=terminal))
    call("logs", "beat")
    assert [argv[0] for argv in seen] == ["tail", "filtered"]


def test_logs_from_files_name_what_they_leave_out(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execv(path: str, argv: list[str]) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    units = ["shop-beat", "shop-web", "redis@shop-results", "nginx"]
    document = host.document(place, units=[f"{name}.service" for name in units])
    document["logs"]["destination"] = "file"
    path = place / "etc/shop/cli.json"
    path.write_text(json.dumps(document))
    assert call("logs").stderr == (
        "celery-fleet: shop-web, redis@shop-results, nginx left out, because their logs are in the journal:"
        " celery-fleet logs web, celery-fleet logs results, journalctl -u nginx\n"
    )
    assert call("logs", "beat").stderr == call("logs", "web").stderr == ""
    document["logs"]["destination"] = "journal"
    path.write_text(json.dumps(document))
    assert call("logs").stderr == ""


@pytest.mark.parametrize("destination", ["journal", "file"])
def test_logs_that_this_user_may_not_read(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    """Otherwise journalctl says that there are none, with status 0."""

    def execv(path: str, argv: list[str]) -> None:
        raise SystemExit(0)

    document = host.document(place)
    document["logs"] = {"destination": destination, "directory": str(place)}
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    (place / "journal/1a2b").mkdir(parents=True)
    (place / "journal/1a2b/system.journal").touch()
    monkeypatch.setattr(logs, "JOURNALS", (str(place / "journal"),))
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = call("logs", "-n", "5")
    what = "root and the group systemd-journal may read the journal"
    if destination == "file":
        what = f"root may read {place}/celery_mail.log"
    assert (done.exit_code, done.stderr) == (
        3,
        f"celery-fleet: only {what}: sudo celery-fleet logs -n 5\n",
    )
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert call("logs").exit_code == 0


def test_logs_of_units_on_other_hosts(place: Path, call: Call) -> None:
    done = call("logs", "worker", "nobody")
    words = "celery-fleet: worker1 has no worker nobody of shop; the workers are mail, bulk\n"
    assert (done.exit_code, done.stderr) == (2, words)
    document = host.document(place, host="control1", units=["shop-beat.service"])
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    done = call("logs", "worker", "mail")
    words = "celery-fleet: control1 has no worker mail of shop; it is on worker1\n"
    assert (done.exit_code, done.stderr) == (2, words)
    (place / "etc/shop/cli.json").write_text(json.dumps(host.document(place)))
    done = call("logs", "beat")
    assert (done.exit_code, done.stderr) == (
        2,
        "celery-fleet: worker1 has no beat of shop; it is on control1\n",
    )
    assert "it is on redis1" in call("logs", "broker").stderr
    # Only several hosts of Redis have Sentinels.
    assert "it is on no host" in call("logs", "sentinel").stderr
    document = host.document(place, host="redis1", units=["redis@shop-broker.service"])
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    assert "redis1 has no cache of shop; it is on no host" in call("logs", "cache").stderr
    unit = "shop-sentinel.service"
    there = host.application(place, units=[unit])
    assert logs.wanted(there, ("sentinel",)) == [unit]


# --- the command as a whole ---


def test_every_command_has_help_with_examples(place: Path, call: Call) -> None:
    for argv in [(), *((name,) for name in cli.commands)]:
        done = call(*argv, "--help")
        assert done.exit_code == 0
        assert "Examples:" in done.stdout
        assert "celery-fleet " in done.stdout
    assert call("--version").stdout.startswith("celery-fleet, version ")


@pytest.mark.parametrize("names", [(), ("status",), ("dead-letters", "replay")])
def test_help_is_a_word_as_well(call: Call, names: tuple[str, ...]) -> None:
    done = call("help", *names)
    assert (done.exit_code, done.stdout) == (0, call(*names, "--help").stdout)
    assert done.stdout.startswith(" ".join(("Usage: celery-fleet", *names)))


def test_help_of_an_unknown_command(call: Call) -> None:
    done = call("help", "sttatus")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No such command 'sttatus'" in done.stderr


@pytest.mark.parametrize("argv", [(), ("schedule",), ("dead-letters",)])
def test_help_lists_commands_with_whole_sentences(call: Call, argv: tuple[str, ...]) -> None:
    said = call(*argv, "--help").stdout
    assert "…" not in said
    said = said.partition("Options:")[2]
    assert "..." not in said
    assert all(len(line) <= 80 for line in said.splitlines())
    if not argv:
        named = [name for names in Whole.sections.values() for name in names]
        assert sorted(named) == sorted(cli.commands)
        assert [title for title in Whole.sections if f"\n{title}:\n" in said] == [*Whole.sections]


@pytest.mark.parametrize("argv", [("--json", "status"), ("status", "--json")])
def test_json_has_a_short_option(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    answers(monkeypatch, WELL)
    assert json.loads(call(*argv).stdout)["ok"] is True


@pytest.mark.parametrize(
    ("argv", "seconds"),
    [
        (("status",), 10),
        (("--timeout", "30", "status"), 30),
        (("status", "--timeout", "30"), 30),
        (("--timeout", "20", "status", "--timeout", "30"), 30),
        (("--timeout", "30", "dead-letters", "list"), 30),
        (("dead-letters", "--timeout", "30", "list"), 30),
        # Seconds that workers have for their answer, plus the rest.
        (("--timeout", "30", "active"), 30),
        (("active", "--timeout", "94"), 100),
        (("result", "6f1e0c5a", "--wait", "50"), 60),
        (("--timeout", "30", "result", "6f1e0c5a", "--wait", "50"), 80),
    ],
)
def test_the_time_that_an_answer_may_take(
    place: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    argv: tuple[str, ...],
    seconds: float,
) -> None:
    seen: list[float] = []

    @contextmanager
    def bounded(what: str, seconds: float, said: float | None = None) -> Iterator[None]:
        seen.append(said or seconds)
        raise CommandError("late")
        yield

    monkeypatch.setattr(ask, "bounded", bounded)
    assert call(*argv).exit_code == 3
    assert seen == [seconds]
    if seconds == 10:
        monkeypatch.setenv("CELERY_FLEET_TIMEOUT", "40")
        call(*argv)
        call(*argv, "--timeout", "50")
        assert seen == [10, 40, 50]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(call: Call, shell: str) -> None:
    done = call("completion", shell)
    assert (done.exit_code, "_CELERY_FLEET_COMPLETE" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [
        ("celery-fleet stat", 1, ["stats", "status"]),
        ("celery-fleet logs w", 2, ["worker", "web"]),
        ("celery-fleet logs worker ", 3, ["mail", "bulk"]),
        ("celery-fleet inspect active -d ma", 4, ["mail@worker1"]),
        ("celery-fleet --app s", 2, ["shop"]),
    ],
)
def test_completion_suggests_values(
    place: Path, words: str, number: int, expected: list[str]
) -> None:
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(number),
        "_CELERY_FLEET_COMPLETE": "bash_complete",
    }
    done = CliRunner().invoke(cli, [], prog_name="celery-fleet", env=environment)
    assert [line.partition(",")[2] for line in done.output.splitlines()] == expected


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        ("celery-fleet --app blog purge p", ""),
        ("celery-fleet purge --app blog p", ""),
        ("celery-fleet --app shop purge --app blog p", ""),
        ("celery-fleet dead-letters --app blog list --queue p", ""),
        ("celery-fleet --app blog dead-letters list --queue p", ""),
        ("celery-fleet purge p", "blog"),
        ("celery-fleet --app blog purge p", "shop"),
    ],
)
def test_completion_suggests_values_of_the_chosen_application(
    place: Path, words: str, variable: str
) -> None:
    host.install(place, "blog", queues=["posts"])
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_CELERY_FLEET_COMPLETE": "bash_complete",
        "CELERY_FLEET_APP": variable,
    }
    done = CliRunner().invoke(cli, [], prog_name="celery-fleet", env=environment)
    assert done.output == "plain,posts\n"


def test_a_command_ends_at_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(Exception, match=r"^x: no answer within 0.2 s; "), ask.bounded("x", 0.2):
        time.sleep(60)
    assert time.monotonic() - began < 30


def test_next_due_of_a_host_without_beat(place: Path) -> None:
    assert status.next_due(host.application(place)) is None


def test_next_due_reads_files_of_the_applications_user_safely(place: Path) -> None:
    found = host.application(place)
    entry = {"name": "n", "task": "t", "queue": "q", "due": "2026-01-02T03:00:00Z"}
    text = json.dumps({"entries": [entry]})
    path = place / "schedule.json"
    path.write_text(text)
    assert status.next_due(found) == entry
    path.write_text(json.dumps({"entries": [entry], "stands_by": True}))
    assert status.next_due(found) is None
    for harm in (text + " " * LARGEST_OF_BEAT, "[" * 100_000, '{"entries": [{"due": 1}]}', "[]"):
        path.write_text(harm)
        assert status.next_due(found) is None
    path.unlink()
    (place / "elsewhere").write_text(text)
    path.symlink_to("elsewhere")
    assert status.next_due(found) is None
    path.unlink()
    os.mkfifo(path)
    with ask.bounded("a pipe without a writer", 60):
        assert status.next_due(found) is None
