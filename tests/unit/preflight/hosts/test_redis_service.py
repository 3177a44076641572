"""A real Redis, restricted like a managed service: the probe finds what it refuses, and preflight judges that."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.action import host_facts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.redis_service import (
    check_redis_service,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from tests.support.redis_server import Server, redis_server
from tests.unit.preflight.inventory import ROOT

SCRIPT = ROOT / "plugins/plugin_utils/scripts/redis_service.py"
FREE: dict[str, Any] = {
    "version": "7.2.4",
    "role": "master",
    "cluster": "0",
    "policy": "noeviction",
    "aof": "1",
    "refused": {},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--rename-command", "CONFIG", "", "--maxmemory-policy", "allkeys-lru")
    with redis_server(tmp_path_factory.mktemp("service"), *options) as running:
        yield running


def told(server: Server, rules: str, url: str = "redis://shop:a%40b@127.0.0.1:{port}/3") -> Any:
    server.client.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">a@b", *rules.split())
    request = {"servers": [{"kind": "broker", "url": url.format(port=server.port), "ca": ""}]}
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(SCRIPT)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)["broker"]


def judged(answer: Any, kind: str = "broker") -> list[tuple[Severity, str]]:
    found = check_redis_service({"redis_service": {kind: answer}})
    return [(one.severity, one.message) for one in found]


def test_a_user_with_all_rights_is_refused_nothing_and_no_key_is_left(server: Server) -> None:
    answer = told(server, "~* &* +@all")
    assert answer["refused"] == {}
    assert (answer["policy"], answer["aof"], answer["role"]) == ("allkeys-lru", "0", "master")
    assert server.client.info("keyspace") == {}


def test_a_user_without_dangerous_commands_works_with_limits(server: Server) -> None:
    answer = told(server, "~* &* +@all -@admin -@dangerous -client|tracking")
    assert [*answer["refused"]] == ["CLIENT TRACKING"]
    ((severity, message),) = judged(answer)
    assert severity is Severity.WARNING
    assert "client tracking" in message
    assert "maxmemory-policy" in message


def test_a_command_that_workers_need_is_named(server: Server) -> None:
    answer = told(server, "~* &* +@all -@scripting -blmove")
    assert {*answer["refused"]} == {"SCRIPT LOAD", "EVALSHA", "BLMOVE"}
    assert any(
        severity is Severity.ERROR and "BLMOVE, SCRIPT LOAD, EVALSHA" in message
        for severity, message in judged(answer)
    )


def test_forbidden_keys_and_channels_count_as_refused(server: Server) -> None:
    assert {"LPUSH", "PUBLISH"} <= {*told(server, "~shop:* &shop:* +@all")["refused"]}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://shop:wrong@127.0.0.1:{port}/0", "WRONGPASS"),
        ("redis://shop:a%40b@127.0.0.1:1/0", "refused"),
        ("redis://shop:a%40b@127.0.0.1:{port}/99", "DB index"),
    ],
)
def test_the_reason_why_a_server_cant_be_used_is_reported(
    server: Server, url: str, words: str
) -> None:
    answer = told(server, "~* &* +@all", url)
    assert words in answer["error"]
    ((severity, message),) = judged(answer)
    assert severity is Severity.ERROR
    assert words in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "6.0.16"}, "older than 6.2"),
        ({"cluster": "1"}, "cluster"),
        ({"role": "slave"}, "replica"),
        ({"policy": "allkeys-lru"}, "evicts keys"),
    ],
)
def test_a_server_that_would_lose_tasks_is_refused(change: dict[str, Any], words: str) -> None:
    ((severity, message),) = judged(FREE | change)
    assert severity is Severity.ERROR
    assert words in message


def test_a_result_store_may_evict_and_need_not_persist() -> None:
    assert judged(FREE | {"policy": "allkeys-lru", "aof": "0"}, "results") == []


def test_a_server_that_repeats_the_login_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = object.__new__(host_facts.ActionModule)
    said = {"broker": {"error": "ERR unknown command 'AUTH', with args: 'shop' 'a@b-secret'"}}
    result = {"rc": 0, "stdout": json.dumps(said)}
    monkeypatch.setattr(facts, "_low_level_execute_command", lambda *_, **__: result)
    service = {"kind": "broker", "url": "rediss://shop:a%40b-secret@h:6379/0", "ca": ""}
    answer = facts._asked([service])
    assert "unknown command" in answer["broker"]["error"]
    assert "a@b-secret" not in str(answer)


def test_the_probe_tries_every_command_that_a_worker_may_run() -> None:
    tried = {words[0].lower() for words in runpy.run_path(str(SCRIPT))["NEEDED"]}
    rules = acl.acl("broker", {"worker": "p"}, []) + acl.acl("results", {"worker": "p"}, [])
    allowed = {
        word[1:].partition("|")[0] for word in rules.split() if word[0] == "+" and word[1] != "@"
    }
    # HELLO and PING need no right, SELECT is part of the login, and tracking is optional. A worker that may not write
    # the history of tasks, or read the pauses, logs that and continues without.
    history = {"xadd", "xlen", "xtrim", "memory", "hgetall"}
    assert allowed - tried <= {"ping", "select", "client", "discard"} | history
