"""The scripts on a real Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from celery_fleet.delivery.run import run
from celery_fleet.delivery.scripts import ACK, PUT_ASIDE, REQUEUE, RESTORE, TAKE, Script
from tests.unit.delivery.servers import Server, serving

NAMES = ["unacked", "unacked_index"]
TAG = "w@h/0123456789abcdef/1"


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def broker(_server: Server) -> Iterator[redis.Redis]:
    yield _server.client
    _server.client.config_set("maxmemory", "0")
    _server.client.flushall()


def take(
    client: Any,
    *lists: str,
    queues: tuple[str, ...] = ("mail",),
    tag: str = TAG,
) -> Any:
    return run(client, TAKE, lists, [tag, *NAMES, *map(json.dumps, queues)])


def full(client: Any) -> None:
    """Bring the server to its memory limit, beyond which it refuses to grow."""
    client.config_set("maxmemory", "1")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("any", "thing")


def test_a_take_notes_the_message_as_kombu_does(broker: redis.Redis) -> None:
    broker.lpush("mail", '{"n": 1}', '{"n": 2}')
    before = time.time()
    assert take(broker, "mail") == [0, b'{"n": 1}']
    assert json.loads(broker.hget("unacked", TAG) or "") == [{"n": 1}, "", "mail"]
    ((tag, taken_at),) = broker.zrange("unacked_index", 0, -1, withscores=True)
    assert tag == TAG.encode()
    assert before - 1 <= taken_at <= time.time() + 1
    assert broker.lrange("mail", 0, -1) == [b'{"n": 2}']


def test_lists_are_asked_in_their_order_and_noted_under_their_queue(broker: redis.Redis) -> None:
    lists = ["a", "b", "a\x06\x163", "b\x06\x163"]
    broker.lpush("b\x06\x163", '"low"')
    broker.lpush("b", '"high"')
    assert take(broker, *lists, queues=("a", 'b"x'), tag="1") == [1, b'"high"']
    assert take(broker, *lists, queues=("a", 'b"x'), tag="2") == [3, b'"low"', 1]
    assert take(broker, *lists, queues=("a", 'b"x'), tag="3") is None
    assert json.loads(broker.hget("unacked", "2") or "") == ["low", "", 'b"x']
    assert broker.hlen("unacked") == 2


@pytest.mark.parametrize(
    ("sent", "answer", "watched"),
    [
        ({}, None, "abcd"),
        ({"a": 1}, [0, b"1", 1], "abcd"),
        ({"c": 1}, [2, b"1", 1], "abcd"),
        ({"a": 2}, [0, b"1"], ""),
    ],
)
def test_what_was_empty_is_watched(
    broker: redis.Redis,
    sent: dict[str, int],
    answer: list[Any] | None,
    watched: str,
) -> None:
    """And never what each take writes."""
    with listener(broker) as (client, heard):
        for name, number in sent.items():
            broker.lpush(name, *range(1, number + 1))
        assert take(client, *"abcd") == answer
        for name in (*"abcd", *NAMES):
            broker.delete(name)
            broker.lpush(name, "x")
        client.ping()
        assert heard == list(watched)


def test_what_was_empty_is_watched_though_another_list_was_not(broker: redis.Redis) -> None:
    with listener(broker) as (client, heard):
        broker.lpush("c", "1", "2")
        assert take(client, *"abcd") == [2, b"1"]
        broker.lpush("b", "x")
        broker.lpush("a", "x")
        client.ping()
        assert heard == ["b", "a"]


@contextmanager
def listener(broker: redis.Redis) -> Iterator[tuple[redis.Redis, list[str]]]:
    """A client with tracking, and the keys that it has been told of."""
    port = broker.get_connection_kwargs()["port"]
    with redis.Redis(port=port, protocol=3, single_connection_client=True) as client:
        heard: list[str] = []
        client.connection._parser.set_invalidation_push_handler(
            lambda push: heard.extend(name.decode() for name in push[1])
        )
        client.client_tracking_on(noloop=True)
        yield client, heard


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_noted_goes_back(broker: redis.Redis, name: str) -> None:
    broker.set(name, "not of this type")
    broker.lpush("mail", "one", "two")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        take(broker, "mail")
    assert broker.lrange("mail", 0, -1) == [b"two", b"one"]
    broker.delete(name)
    assert broker.exists(*NAMES) == 0


def test_a_list_of_another_type_takes_nothing(broker: redis.Redis) -> None:
    broker.set("mail", "no list")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        take(broker, "mail")
    assert broker.exists(*NAMES) == 0


@pytest.mark.parametrize("script", [RESTORE, REQUEUE])
def test_what_its_list_does_not_take_stays_held(broker: redis.Redis, script: Script) -> None:
    broker.lpush("mail", "{}")
    take(broker, "mail")
    broker.set("mail", "no list")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        run(broker, script, [*NAMES, "mail"], [TAG, "{}"])
    assert broker.hkeys("unacked") == broker.zrange("unacked_index", 0, -1) == [TAG.encode()]

    broker.delete("mail")
    assert run(broker, script, [*NAMES, "mail"], [TAG, "{}"]) == 1
    assert run(broker, script, [*NAMES, "mail"], [TAG, "{}"]) == 0
    assert broker.lrange("mail", 0, -1) == [b"{}"]
    assert not broker.exists(*NAMES)


def test_an_acknowledgement_counts_once(broker: redis.Redis) -> None:
    broker.lpush("mail", "{}")
    take(broker, "mail")
    assert run(broker, ACK, NAMES, [TAG]) == 1
    assert run(broker, ACK, NAMES, [TAG]) == 0
    assert broker.exists(*NAMES, "mail") == 0


def test_a_message_goes_back_to_the_head_and_only_while_it_is_held(broker: redis.Redis) -> None:
    broker.lpush("mail", "first", "second")
    take(broker, "mail")
    assert run(broker, RESTORE, [*NAMES, "mail"], [TAG, "first, again"]) == 1
    assert run(broker, RESTORE, [*NAMES, "mail"], [TAG, "first, again"]) == 0
    assert broker.rpop("mail") == b"first, again"
    assert broker.exists(*NAMES) == 0


def test_what_is_put_aside_is_kept_up_to_a_number(broker: redis.Redis) -> None:
    for number in range(4):
        broker.lpush("mail", f"rubbish {number}")
        take(broker, "mail")
        assert run(broker, PUT_ASIDE, [*NAMES, "aside"], [TAG, f"rubbish {number}", 3]) == 1
    assert run(broker, PUT_ASIDE, [*NAMES, "aside"], [TAG, "rubbish", 3]) == 0
    assert broker.lrange("aside", 0, -1) == [b"rubbish 3", b"rubbish 2", b"rubbish 1"]
    assert broker.exists(*NAMES) == 0


def test_all_of_it_works_at_the_memory_limit(broker: redis.Redis) -> None:
    broker.lpush("mail", "1", "2", "3")
    for script in (TAKE, ACK, RESTORE, PUT_ASIDE):
        broker.script_load(script.text)
    full(broker)
    assert take(broker, "mail", tag="a") == [0, b"1"]
    assert take(broker, "mail", tag="b") == [0, b"2"]
    assert take(broker, "mail", tag="c") == [0, b"3", 1]
    assert run(broker, ACK, NAMES, ["a"]) == 1
    assert run(broker, RESTORE, [*NAMES, "mail"], ["b", "2"]) == 1
    assert run(broker, PUT_ASIDE, [*NAMES, "aside"], ["c", "3", 10]) == 1
    assert broker.lrange("mail", 0, -1) == [b"2"]
    assert broker.lrange("aside", 0, -1) == [b"3"]


def test_a_script_that_redis_has_forgotten_is_told_again(broker: redis.Redis) -> None:
    broker.script_flush()
    assert run(broker, ACK, NAMES, [TAG]) == 0
    assert broker.script_exists(ACK.sha) == [True]


def test_the_name_of_a_script_is_that_of_redis(broker: redis.Redis) -> None:
    assert broker.script_load(TAKE.text) == TAKE.sha
    assert Script("return 1").sha == broker.script_load("return 1")
