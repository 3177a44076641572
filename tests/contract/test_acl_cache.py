"""An application may do with its cache what it needs, and no more, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl

from tests.programs import knows_setinfo
from tests.support.redis_server import redis_server


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("cache")
    users = acl.acl("cache", {"cache": "c", "operator": "o", "admin": "a"}, [], knows_setinfo())
    with redis_server(directory, "--databases", "1", users=users) as server:
        with redis.Redis(port=server.port, username="operator", password="o") as operator:
            assert "maxmemory_policy" in operator.info("memory")
        yield server.port


def test_an_application_uses_its_cache(port: int) -> None:
    with redis.Redis(port=port, username="cache", password="c") as client:
        pipe = client.pipeline()
        pipe.set("a", 1, ex=60).incr("a").expire("a", 30)
        assert pipe.execute()[1] == 2
        with client.lock("a-lock", timeout=60):
            assert list(client.scan_iter("a-*")) == [b"a-lock"]
        assert client.eval("return redis.call('GET', KEYS[1])", 1, "a") == b"2"
        assert client.publish("anything", "x") == 0
        assert client.flushdb()
        assert client.get("a") is None


@pytest.mark.parametrize("command", ["CONFIG GET *", "ACL LIST", "FLUSHALL", "SHUTDOWN", "KEYS *"])
def test_an_application_can_not_change_the_server(port: int, command: str) -> None:
    with (
        redis.Redis(port=port, username="cache", password="c") as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command.split())


def test_an_operator_sees_no_key_of_the_cache(port: int) -> None:
    with (
        redis.Redis(port=port, username="operator", password="o") as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.get("a")
