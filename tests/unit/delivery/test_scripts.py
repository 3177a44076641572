"""The scripts on a real Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from kombu.transport.redis import Channel

from celery_fleet.delivery import keys, messages
from celery_fleet.delivery.scripts import (
    ACK,
    BEGIN,
    FETCH,
    HEAD,
    PUT_ASIDE,
    PUT_BACK,
    TAIL,
    Script,
    run,
    run_each,
)
from celery_fleet.worker.backlog import HEADS
from tests.support.redis_server import Server, redis_server

NAMES = ["unacked", "unacked_index"]
TAG = "w@h/0123456789abcdef/1"


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
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
    return run(client, FETCH, lists, [tag, *NAMES, *map(json.dumps, queues)])


def full(client: Any) -> None:
    """Bring the server to its memory limit, beyond which it refuses to grow."""
    client.config_set("maxmemory", "1")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("any", "thing")


def test_a_fetch_records_the_message_as_kombu_does(broker: redis.Redis) -> None:
    broker.lpush("mail", '{"n": 1}', '{"n": 2}')
    before = time.time()
    assert take(broker, "mail") == [0, b'{"n": 1}']
    assert json.loads(broker.hget("unacked", TAG) or "") == [{"n": 1}, "", "mail"]
    ((tag, taken_at),) = broker.zrange("unacked_index", 0, -1, withscores=True)
    assert tag == TAG.encode()
    assert before - 1 <= taken_at <= time.time() + 1
    assert broker.lrange("mail", 0, -1) == [b'{"n": 2}']


def test_lists_are_tried_in_order_and_messages_recorded_with_their_queue(
    broker: redis.Redis,
) -> None:
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
def test_empty_lists_are_watched(
    broker: redis.Redis,
    sent: dict[str, int],
    answer: list[Any] | None,
    watched: str,
) -> None:
    """Keys that each fetch writes are never watched."""
    with listener(broker) as (client, heard):
        for name, number in sent.items():
            broker.lpush(name, *range(1, number + 1))
        assert take(client, *"abcd") == answer
        for name in (*"abcd", *NAMES):
            broker.delete(name)
            broker.lpush(name, "x")
        client.ping()
        assert heard == list(watched)


def test_empty_lists_are_watched_even_if_another_was_not_empty(broker: redis.Redis) -> None:
    with listener(broker) as (client, heard):
        broker.lpush("c", "1", "2")
        assert take(client, *"abcd") == [2, b"1"]
        broker.lpush("b", "x")
        broker.lpush("a", "x")
        client.ping()
        assert heard == ["b", "a"]


@contextmanager
def listener(broker: redis.Redis) -> Iterator[tuple[redis.Redis, list[str]]]:
    """Yield a client with tracking, and the keys of the pushes that it gets."""
    port = broker.get_connection_kwargs()["port"]
    with redis.Redis(port=port, protocol=3, single_connection_client=True) as client:
        heard: list[str] = []
        client.connection._parser.set_invalidation_push_handler(
            lambda push: heard.extend(name.decode() for name in push[1])
        )
        client.client_tracking_on(noloop=True)
        yield client, heard


@pytest.mark.parametrize("name", NAMES)
def test_a_message_that_cannot_be_recorded_goes_back(broker: redis.Redis, name: str) -> None:
    broker.set(name, "not of this type")
    broker.lpush("mail", "one", "two")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        take(broker, "mail")
    assert broker.lrange("mail", 0, -1) == [b"two", b"one"]
    broker.delete(name)
    assert broker.exists(*NAMES) == 0


def test_a_key_of_another_type_is_an_error(broker: redis.Redis) -> None:
    broker.set("mail", "no list")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        take(broker, "mail")
    assert broker.exists(*NAMES) == 0


def put_back(
    broker: redis.Redis, *lists: str, item: str = "{}", end: str = HEAD, **more: str
) -> Any:
    names = [*NAMES, *(lists or ("mail",))]
    return run(broker, PUT_BACK, names, [more.get("tag", TAG), item, end, more.get("until", "")])


@pytest.mark.parametrize("end", [HEAD, TAIL])
def test_a_message_that_its_list_refuses_stays_held(broker: redis.Redis, end: str) -> None:
    broker.lpush("mail", "{}")
    take(broker, "mail")
    broker.set("mail", "no list")
    with pytest.raises(redis.ResponseError, match=r"WRONGTYPE|wrong kind"):
        put_back(broker, end=end)
    assert broker.hkeys("unacked") == broker.zrange("unacked_index", 0, -1) == [TAG.encode()]

    broker.delete("mail")
    assert put_back(broker, end=end) == 1
    assert put_back(broker, end=end) == 0
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
    assert put_back(broker, item="first, again") == 1
    assert put_back(broker, item="first, again") == 0
    assert broker.rpop("mail") == b"first, again"
    assert broker.exists(*NAMES) == 0


def test_a_message_that_rejects_itself_goes_to_the_tail(broker: redis.Redis) -> None:
    broker.lpush("mail", "first", "second")
    take(broker, "mail")
    assert put_back(broker, item="first", end=TAIL) == 1
    assert broker.lrange("mail", 0, -1) == [b"first", b"second"]


def test_a_message_that_was_renewed_or_fetched_later_stays(broker: redis.Redis) -> None:
    broker.lpush("mail", "it")
    take(broker, "mail")
    broker.zadd("unacked_index", {TAG: 1000.5})
    assert put_back(broker, until="1000.4") == 0
    assert broker.hkeys("unacked") == [TAG.encode()]
    assert put_back(broker, until="1000.5") == 1
    assert put_back(broker, until="1000.5") == 0


def test_a_message_for_several_lists_goes_to_those_that_accept_it(broker: redis.Redis) -> None:
    broker.lpush("mail", "it")
    take(broker, "mail")
    broker.set("wrong", "no list")
    with pytest.raises(redis.ResponseError, match="there is no list"):
        run(broker, PUT_BACK, NAMES, [TAG, "it", HEAD, ""])
    assert put_back(broker, "mail", "wrong", "bulk", item="it") == 1
    assert (broker.lrange("mail", 0, -1), broker.lrange("bulk", 0, -1)) == ([b"it"], [b"it"])
    assert broker.exists(*NAMES) == 0


def begin(client: Any, claim: str = "claim", *known: str) -> Any:
    return run(client, BEGIN, [*NAMES, claim, *known], [TAG, 100])


def test_a_task_may_begin_if_its_message_is_removed_and_also_when_asked_again(
    broker: redis.Redis,
) -> None:
    broker.lpush("mail", "1")
    take(broker, "mail")
    assert begin(broker) == 1
    assert not broker.exists(*NAMES)
    assert begin(broker) == 1
    assert broker.ttl("claim") in range(90, 101)
    assert begin(broker, "another's") == 0
    assert begin(broker, "next", "claim") == 0
    assert broker.keys() == []


def test_a_task_that_another_worker_has_may_not_begin(broker: redis.Redis) -> None:
    broker.lpush("mail", "1")
    take(broker, "mail")
    assert put_back(broker, item="1") == 1
    assert begin(broker) == 0
    # With the stock fetch it keeps its tag.
    take(broker, "mail")
    assert begin(broker, "another's") == 1
    assert begin(broker) == 0
    assert broker.keys() == [b"another's"]


def test_a_message_whose_task_was_claimed_and_did_not_begin_goes_back_once(
    broker: redis.Redis,
) -> None:
    broker.lpush("mail", "1")
    take(broker, "mail")
    assert begin(broker) == 1
    calls = [([*NAMES, "mail"], [TAG, "1", HEAD, tried, "claim"]) for tried in ("", "7.0")]
    assert run_each(broker, PUT_BACK, calls) == [1, 0]
    assert broker.lrange("mail", 0, -1) == [b"1"]
    assert begin(broker) == 0
    # With the stock fetch the next claim may be for the same tag, which an attempt without an answer must not take.
    take(broker, "mail")
    assert begin(broker, "next") == 1
    assert run_each(broker, PUT_BACK, calls) == [0, 0]
    # An uncertain time does not matter if there is a claim.
    assert run_each(broker, PUT_BACK, [([*NAMES, "mail"], [TAG, "1", HEAD, "7.0", "next"])]) == [1]


def test_a_message_that_was_not_claimed_goes_back_as_usual(broker: redis.Redis) -> None:
    broker.lpush("mail", "1")
    take(broker, "mail")
    call = ([*NAMES, "mail"], [TAG, "1", HEAD, "", "claim"])
    assert run_each(broker, PUT_BACK, [call, call]) == [1, 0]
    assert broker.keys() == [b"mail"]


def test_each_call_has_its_own_reply(broker: redis.Redis) -> None:
    broker.script_flush()
    broker.set("wrong", "no list")
    for tag in "abc":
        broker.hset("unacked", tag, "{}")
    calls = [
        ([*NAMES, key], [tag, tag, HEAD, ""])
        for key, tag in zip(("mail", "wrong", "mail"), "abc", strict=True)
    ]
    first, second, third = run_each(broker, PUT_BACK, calls)
    assert (first, third) == (1, 1)
    assert isinstance(second, redis.ResponseError)
    assert broker.lrange("mail", 0, -1) == [b"a", b"c"]


@pytest.mark.parametrize("priority", [None, "x", -1, 0, 2, 3, 5, 9, 12])
@pytest.mark.parametrize("steps", [[0, 3, 6, 9], [0], [0, 5]])
def test_the_list_of_a_message_is_the_same_as_kombus(priority: Any, steps: list[int]) -> None:
    raw = {"properties": {"priority": priority}}
    channel: Any = Channel.__new__(Channel)
    channel.priority_steps, channel.sep = steps, ":"
    wanted = channel._q_for_pri("mail", channel._get_message_priority(raw, reverse=False))
    assert messages.list_for("mail", raw, ":", steps) == wanted


def test_only_some_messages_that_were_set_aside_are_kept(broker: redis.Redis) -> None:
    for number in range(4):
        broker.lpush("mail", f"rubbish {number}")
        take(broker, "mail")
        assert run(broker, PUT_ASIDE, [*NAMES, "aside"], [TAG, f"rubbish {number}", 3]) == 1
    assert run(broker, PUT_ASIDE, [*NAMES, "aside"], [TAG, "rubbish", 3]) == 0
    assert broker.lrange("aside", 0, -1) == [b"rubbish 3", b"rubbish 2", b"rubbish 1"]
    assert broker.exists(*NAMES) == 0


def test_all_scripts_work_at_the_memory_limit(broker: redis.Redis) -> None:
    broker.lpush("mail", "1", "2", "3", "4")
    for script in (FETCH, ACK, BEGIN, PUT_BACK, PUT_ASIDE):
        broker.script_load(script.text)
    full(broker)
    assert take(broker, "mail", tag="a") == [0, b"1"]
    assert take(broker, "mail", tag="b") == [0, b"2"]
    assert take(broker, "mail", tag="c") == [0, b"3"]
    assert take(broker, "mail") == [0, b"4", 1]
    assert begin(broker) == 1
    assert run(broker, PUT_BACK, [*NAMES, "mail"], [TAG, "4", HEAD, "", "claim"]) == 1
    assert run(broker, ACK, NAMES, ["a"]) == 1
    assert put_back(broker, item="2", tag="b") == 1
    assert run(broker, PUT_ASIDE, [*NAMES, "aside"], ["c", "3", 10]) == 1
    assert broker.lrange("mail", 0, -1) == [b"4", b"2"]
    assert broker.lrange("aside", 0, -1) == [b"3"]


def test_a_script_that_redis_has_forgotten_is_sent_again(broker: redis.Redis) -> None:
    broker.script_flush()
    assert run(broker, ACK, NAMES, [TAG]) == 0
    assert broker.script_exists(ACK.sha) == [True]


def test_the_digest_of_a_script_is_that_of_redis(broker: redis.Redis) -> None:
    assert broker.script_load(FETCH.text) == FETCH.sha
    assert Script("return 1").sha == broker.script_load("return 1")


def test_the_heads_of_lists_say_when_they_were_sent(broker: redis.Redis) -> None:
    late = {keys.FIRST_SENT: 3.5, keys.SENT: 1234.567, "argsrepr": f'["{keys.SENT}": 7]'}
    for name, headers in (("mail", late), ("bulk", {"task": "shop.add"})):
        broker.lpush(name, json.dumps({"body": "", "headers": headers}))
        broker.lpush(name, json.dumps({"headers": {keys.SENT: 5}}))
    assert run(broker, HEADS, ["mail", "bulk", "empty"], [keys.SENT]) == [b"1234.567", b"", None]


def test_a_large_message_that_does_not_say_when_it_was_sent_costs_redis_little(
    broker: redis.Redis,
) -> None:
    broker.lpush("mail", json.dumps({"body": "x" * 30_000, "headers": {}}))
    began = time.monotonic()
    assert run(broker, HEADS, ["mail"], [keys.SENT]) == [b""]
    assert time.monotonic() - began < 0.5
