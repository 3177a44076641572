"""The operator's command with a Redis that the fleet does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from celery_fleet.cli.commands import redis, status
from celery_fleet.cli.errors import CommandError
from tests.unit.cli import host

URL = "rediss://shop:a%40b@redis.example.org:6390/2"


def instance(limits: list[str]) -> dict[str, Any]:
    return {
        "host": "redis.example.org",
        "port": 6390,
        "unit": "",
        "acl": "/none",
        "here": False,
        "limits": limits,
    }


def application(root: Path) -> Any:
    instances = {"broker": instance(["it may evict"]), "results": instance([])}
    return host.application(root, redis={"ca": "/ca.crt", "instances": instances})


def test_the_command_logs_in_as_the_users_url_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = application(tmp_path)
    monkeypatch.setattr(
        type(there),
        "settings",
        lambda self: {"celery": {"broker_url": URL, "result_backend": "redis://:x@h"}},
    )
    monkeypatch.setattr(redis.shutil, "which", lambda name, path: f"/usr/bin/{name}")
    login = redis.login(there, there.redis["broker"], "operator")
    assert login == redis.Login("shop", "a@b", "2", tls=True)
    line = redis.line(there, there.redis["broker"], login, ["ping"])
    assert line == ["/usr/bin/redis-cli", "-e", "--user", "shop", "-n", "2", "ping"]
    plain = redis.login(there, there.redis["results"], "operator")
    assert plain == redis.Login("default", "x", "", tls=False)


def test_such_a_redis_has_no_admin(tmp_path: Path) -> None:
    there = application(tmp_path)
    with pytest.raises(CommandError, match="the fleet does not run redis"):
        redis.login(there, there.redis["broker"], "admin")


def test_status_names_the_redis_and_its_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status.show(status.StatusReport([]), application(tmp_path))
    assert (
        "does not run its broker, redis.example.org:6390; it may evict." in capsys.readouterr().out
    )
