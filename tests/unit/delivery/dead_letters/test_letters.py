"""Dead letters and their scripts, on a real Redis."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from celery import Celery
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2

from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letters import DeadLetter, Parked, park_call
from celery_fleet.delivery.dead_letters.store import Choice, DeadLetterStore
from celery_fleet.delivery.messages import FetchedMessage, Owner
from celery_fleet.delivery.scripts import run
from celery_fleet.delivery.tags import Tags
from celery_fleet.ops import dead_letters as letter_answers
from tests.fleet import PASSWORDS, client, wait_for
from tests.programs import knows_setinfo
from tests.support.redis_server import looker, redis_server

SOURCE = Path(__file__).resolve().parents[4] / "src"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    users = acl.acl("broker", PASSWORDS, ["mail", "bulk"], setinfo=knows_setinfo())
    with redis_server(tmp_path_factory.mktemp("redis"), users=users) as found:
        yield found.port


@pytest.fixture
def worker(port: int) -> Iterator[redis.Redis]:
    """Return the broker with a worker's rights, emptied; afterwards check that it refused nothing."""
    found = client(port, "worker")
    looker(port).flushall()
    client(port, "admin").acl_log_reset()
    yield found
    assert client(port, "admin").acl_log() == []


@pytest.fixture
def look(port: int) -> redis.Redis:
    return looker(port)


@pytest.fixture
def store(port: int) -> DeadLetterStore:
    return DeadLetterStore(client(port, "operator"))


def message(identifier: str = "id-1", **headers: Any) -> dict[str, Any]:
    body = base64.b64encode(b'[["secret"], {}, {}]').decode()
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "shop.add", "id": identifier, **headers},
        "properties": {
            "delivery_tag": f"tag-of-{identifier}",
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "mail"},
        },
    }


def take(worker: redis.Redis, item: str, tag: str, queue: str = "mail") -> str:
    """Put a message where a worker that fetched it would have it."""
    worker.hset("unacked", tag, f'[{item}, "", "{queue}"]')
    worker.zadd("unacked_index", {tag: 1.0})
    return item


def park(worker: redis.Redis, item: str | bytes, tag: str = "", **options: Any) -> Parked:
    fetched = FetchedMessage(item, tag, options.pop("key", "mail"))
    about: dict[str, Any] = {
        "reason": dead_letters.INVALID,
        "detail": "it is",
        "node": "w@test",
        "keep": 100,
        **options,
    }
    names, arguments = park_call(fetched, **about)
    return Parked.of(run(worker, dead_letters.PARK, names, arguments))


def test_parking_only_needs_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import celery_fleet.delivery.dead_letters.letters;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'celery_fleet'}))"
    )
    argv = [
        sys.executable,
        "-S",
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); {code}",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_an_id_that_is_no_text_is_chosen_replayed_and_dropped(
    worker: redis.Redis, look: redis.Redis, store: DeadLetterStore
) -> None:
    for number in range(2):
        park(worker, json.dumps(message(f"\ud800{number}")))
        park(worker, json.dumps(message(f"id-{number}")))
    ids = [letter.id for letter in store.choose(Choice())]
    found = store.read(ids, payload=True)
    assert len(found) == 4
    assert store.replay(found[:2]) == store.drop(found[2:]) == [1, 1]
    assert look.llen("mail") == 2
    assert not look.exists(keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX)


@pytest.mark.slow
def test_a_message_is_parked(
    worker: redis.Redis, look: redis.Redis, store: DeadLetterStore
) -> None:
    item = take(worker, json.dumps(message()), "t1")
    assert park(worker, item, "t1", key="mail\x06\x163") == Parked(done=True, gone=0, id="id-1")
    assert not look.exists("unacked", "unacked_index")
    assert store.count() == 1
    letter = store.read(["id-1"], payload=True)[0]
    assert (letter.task, letter.queue, letter.key) == ("shop.add", "mail", "mail\x06\x163")
    assert (letter.reason, letter.detail, letter.node) == ("invalid", "it is", "w@test")
    assert (letter.count, letter.message, letter.size) == (1, item, len(item))
    assert abs(letter.last_seen - store.now()) < 60
    assert letter.first_seen == letter.last_seen
    # The payload only leaves Redis if it is asked for.
    assert store.read(["id-1"])[0].message is None
    assert {"message", "id", "count"} < set(
        json.loads(look.hget(keys.DEAD_LETTERS, "id-1") or "{}")
    )


def test_a_message_whose_tag_is_gone_is_not_parked(
    worker: redis.Redis, store: DeadLetterStore
) -> None:
    worker.zadd("unacked_index", {"t1": 1.0})
    assert park(worker, json.dumps(message()), "t1") == Parked(done=False, gone=0, id="")
    assert (store.count(), worker.zcard("unacked_index")) == (0, 0)


def test_parking_the_same_message_again_is_counted(
    worker: redis.Redis, store: DeadLetterStore
) -> None:
    park(worker, take(worker, json.dumps(message()), "t1"), "t1", since=1000.25)
    again = json.dumps(message(redelivered=True, **{keys.UNKNOWN: 7}))
    parked = park(worker, take(worker, again, "t2"), "t2", reason="poison", node="x@test")
    assert parked.id == "id-1"
    [letter] = store.choose(Choice())
    assert (letter.count, letter.first_seen, letter.reason, letter.node) == (
        *(2, 1000.25),
        *("poison", "x@test"),
    )
    assert letter.last_seen > 1000.25


def test_another_message_with_the_same_id_is_kept_as_well(
    worker: redis.Redis, store: DeadLetterStore
) -> None:
    park(worker, json.dumps(message()))
    other = json.dumps({**message(), "body": "W10="})
    second = park(worker, other)
    assert second.id.startswith("id-1~")
    assert park(worker, other).id == second.id
    counts = {letter.id: letter.count for letter in store.choose(Choice())}
    assert counts == {"id-1": 1, second.id: 2}


@pytest.mark.parametrize(
    "item",
    [
        b"rubbish",
        b"\xff\xfe\x00",
        b"[1, 2, 3]",
        b'{"a": 1}',
        b'"',
        b'{"headers": [1]}',
        b"[" * 5000,
    ],
)
def test_an_item_that_is_no_message_is_replayed_unchanged(
    worker: redis.Redis, look: redis.Redis, store: DeadLetterStore, item: bytes
) -> None:
    first, second = park(worker, item), park(worker, item)
    assert first.id.startswith("no-id-")
    assert first.id != second.id, "two items without an id are two"
    letters = store.choose(Choice(), payload=True)
    assert {letter.task for letter in letters} == {None}
    assert store.replay(letters) == [1, 1]
    assert look.lrange("mail", 0, -1) == [item, item]


def test_ids_may_have_any_characters(worker: redis.Redis, store: DeadLetterStore) -> None:
    for identifier in ('a"b', "Größe", "\x00\n", "a\\", ', "message": "'):
        assert park(worker, json.dumps(message(identifier))).id == identifier
        [letter] = store.read([identifier])
        assert (letter.id, letter.message) == (identifier, None)
        assert store.drop([letter]) == [1]


def test_the_task_of_a_protocol_1_message_is_in_its_body() -> None:
    body = base64.b64encode(b'{"task": "old", "id": "7"}').decode()
    raw = {"body": body, "headers": {}, "properties": {"body_encoding": "base64"}}
    assert dead_letters.identity(raw) == ("7", "old")
    plain = {"body": '{"task": "old", "id": "7"}', "headers": None}
    assert dead_letters.identity(plain) == ("7", "old")
    assert dead_letters.identity({"body": "!", "properties": {"body_encoding": "base64"}}) == (
        None,
        None,
    )


def test_the_oldest_are_dropped_if_there_are_too_many(
    worker: redis.Redis, look: redis.Redis, store: DeadLetterStore
) -> None:
    gone = [park(worker, json.dumps(message(f"id-{n}")), keep=3).gone for n in range(5)]
    assert gone == [0, 0, 0, 1, 1]
    assert [letter.id for letter in store.choose(Choice())] == ["id-2", "id-3", "id-4"]
    assert park(worker, json.dumps(message("last")), keep=1).gone == 3
    assert store.count() == look.hlen(keys.DEAD_LETTERS) == 1


def test_a_replay_removes_the_fleets_headers(
    worker: redis.Redis, look: redis.Redis, store: DeadLetterStore
) -> None:
    worker.lpush("mail", "first")
    tag = Tags(Owner("w@test")).next()
    raw = message(redelivered=True, **{keys.DEATHS: 3, keys.UNKNOWN: 1, keys.SENT: 5.5, "mine": 2})
    raw["properties"]["delivery_tag"] = tag
    park(worker, json.dumps(raw))
    before = time.time()
    assert store.replay(store.choose(Choice(), payload=True)) == [1]
    newest, first = look.lrange("mail", 0, -1)
    assert first == b"first", "it goes to the far end"
    back = json.loads(newest)
    # The days as a dead letter are no wait for a worker.
    assert before - 1 <= back["headers"].pop(keys.SENT) <= time.time() + 1
    assert back["headers"] == {
        "task": "shop.add",
        "id": "id-1",
        "redelivered": True,
        keys.FIRST_SENT: 5.5,
        "mine": 2,
    }
    assert back["properties"]["delivery_tag"] != tag, "a stock worker would hold it as another's"
    assert back["body"] == raw["body"]
    assert store.count() == 0


def test_each_replay_has_its_own_time_and_keeps_the_first_one() -> None:
    once = dead_letters.replayed(json.dumps(message(**{keys.SENT: 5.5})), {})
    again = json.loads(once)
    again["headers"][keys.SENT] = 9.5
    headers = json.loads(dead_letters.replayed(json.dumps(again), {}))["headers"]
    assert headers[keys.FIRST_SENT] == 5.5
    assert headers[keys.SENT] > 9.5
    assert dead_letters.digest_of(once, json.loads(once)) == dead_letters.digest_of(
        "", message(**{keys.SENT: 5.5})
    )
    # A sender outside of the fleet adds no time.
    unknown = json.loads(dead_letters.replayed(json.dumps(message()), {}))["headers"]
    assert not {keys.SENT, keys.FIRST_SENT} & set(unknown)


def test_a_letter_that_has_come_back_since_it_was_read_stays(
    worker: redis.Redis, store: DeadLetterStore
) -> None:
    item = json.dumps(message())
    park(worker, item)
    before = store.choose(Choice(), payload=True)
    assert store.replay(before) == [1]
    park(worker, item)
    assert store.replay(before) == store.drop(before) == [0]
    assert store.drop(store.choose(Choice())) == [1]


def is_late(item: str) -> bool:
    """Return whether Celery's worker drops a message because its `expires` has passed."""
    app = Celery("shop", set_as_current=False, broker="memory://")
    task = SimpleNamespace(ignore_result=True)
    raw = json.loads(item)
    body, headers = json.loads(base64.b64decode(raw["body"])), raw["headers"]
    given = SimpleNamespace(headers=headers, delivery_info={}, properties={})
    if isinstance(body, dict):
        body, headers, *_ = hybrid_to_proto2(given, body)
    told: dict[str, Any] = {"headers": headers, "body": body, "decoded": True, "task": task}
    request = Request(given, app=app, hostname="w@test", **told)
    return bool(request.maybe_expire())


def in_protocol_1(expires: str) -> dict[str, Any]:
    body = {"task": "shop.add", "id": "id-1", "args": [], "kwargs": {}, "expires": expires}
    text = base64.b64encode(json.dumps(body).encode()).decode()
    return {**message(), "headers": {}, "body": text}


@pytest.mark.parametrize(
    "expires",
    [
        "2020-06-01T12:00:00.5+00:00",
        "2020-06-01T12:00:00-07:00",
        "2020-06-01T12:00:00Z",
        "2020-06-01",
    ],
)
def test_a_replay_removes_an_expiry_that_has_passed(expires: str) -> None:
    for raw in (message(expires=expires), in_protocol_1(expires)):
        item = json.dumps(raw)
        assert is_late(item)
        back = dead_letters.replayed(item, {})
        assert not is_late(back)
        assert dead_letters.identity(json.loads(back)) == ("id-1", "shop.add")


def test_a_replay_keeps_any_other_expiry() -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for raw in (
        message(expires=later),
        in_protocol_1(later),
        message(expires=None),
        message(expires="tomorrow"),
        message(expires=5),
    ):
        back = json.loads(dead_letters.replayed(json.dumps(raw), {}))
        assert (back["headers"], back["body"]) == (raw["headers"], raw["body"])


def test_two_concurrent_replays_send_each_message_once(
    port: int, worker: redis.Redis, look: redis.Redis, store: DeadLetterStore
) -> None:
    number = 200
    for n in range(number):
        park(worker, json.dumps(message(f"id-{n}")), keep=1000)
    letters = store.choose(Choice(), payload=True)
    answers: list[list[Any]] = []
    start = threading.Barrier(4)

    def operator() -> None:
        own = DeadLetterStore(client(port, "operator"))
        start.wait()
        answers.append([own.replay([letter])[0] for letter in letters])

    threads = [threading.Thread(target=operator) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(one) for one in zip(*answers, strict=True)] == [1] * number
    sent = [json.loads(item)["headers"]["id"] for item in look.lrange("mail", 0, -1)]
    assert sorted(sent) == sorted(f"id-{n}" for n in range(number))
    assert store.count() == 0


def test_letters_of_a_forbidden_list_are_kept(
    port: int, worker: redis.Redis, store: DeadLetterStore
) -> None:
    park(worker, json.dumps(message()), key="forbidden")
    park(worker, json.dumps(message("id-2")))
    letters = store.choose(Choice(), payload=True)
    refused, done = store.replay(letters)
    assert isinstance(refused, redis.ResponseError)
    assert done == 1
    assert [letter.id for letter in store.choose(Choice())] == ["id-1"]
    client(port, "admin").acl_log_reset()


@pytest.mark.slow
def test_a_message_that_a_worker_may_not_park_stays_in_unacked(tmp_path: Path) -> None:
    users = acl.acl("broker", PASSWORDS, ["mail"], setinfo=knows_setinfo()).replace(" ~fleet:*", "")
    with redis_server(tmp_path, users=users) as server:
        worker = client(server.port, "worker")
        item = take(worker, json.dumps(message()), "t1")
        with pytest.raises(redis.ResponseError, match="permission"):
            park(worker, item, "t1")
        assert (worker.hget("unacked", "t1"), worker.zscore("unacked_index", "t1")) == (
            f'[{item}, "", "mail"]'.encode(),
            1.0,
        )


def test_a_full_redis_parks_what_is_in_unacked(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        worker = server.client
        item = take(worker, json.dumps(message()), "t1")
        worker.config_set("maxmemory", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            worker.lpush("mail", "x")
        assert park(worker, item, "t1").done
        assert (worker.hlen("unacked"), worker.hlen(keys.DEAD_LETTERS)) == (0, 1)
        [letter] = DeadLetterStore(worker).choose(Choice(), payload=True)
        [refused] = DeadLetterStore(worker).replay([letter])
        assert isinstance(refused, redis.exceptions.OutOfMemoryError)
        assert DeadLetterStore(worker).count() == 1


def test_letters_are_chosen_by_filters(worker: redis.Redis, store: DeadLetterStore) -> None:
    park(worker, json.dumps(message("a", task="shop.add")))
    park(worker, json.dumps(message("b", task="shop.mul")), key="bulk\x06\x169", reason="poison")
    park(worker, b"rubbish")
    worker.zadd(keys.DEAD_LETTERS_INDEX, {"nobody": 5.0})  # an id without a document

    def ids(**choice: Any) -> list[str]:
        return [letter.id[:2] for letter in store.choose(Choice(**choice))]

    assert ids() == ["a", "b", "no"]
    assert ids(queue="bulk") == ["b"]
    assert ids(task="shop.*") == ["a", "b"]
    assert ids(task="shop.add") == ["a"]
    assert ids(reason="invalid") == ["a", "no"]
    assert ids(ids=("b", "a", "b", "c")) == ["a", "b"]
    assert ids(ids=("b",), queue="mail") == []
    assert ids(newer=3600.0) == ["a", "b", "no"]
    assert ids(older=3600.0) == []
    wait_for(lambda: ids(older=0.1) == ["a", "b", "no"])


def test_more_than_one_page(worker: redis.Redis, store: DeadLetterStore) -> None:
    for n in range(250):
        park(worker, json.dumps(message(f"id-{n:03}")), keep=1000)
    assert len(store.choose(Choice())) == 250
    assert store.drop(store.choose(Choice())) == [1] * 250
    assert store.count() == 0


@pytest.mark.slow
def test_large_letters_are_read_and_replayed_a_few_at_a_time(
    worker: redis.Redis, store: DeadLetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, size in enumerate((3_000_000, 1_500_000, 1_500_000, 8)):
        park(worker, json.dumps({**message(f"id-{n}"), "body": "x" * size}))
    pages: list[list[str]] = []
    replay = store.replay

    def replayed(letters: Sequence[DeadLetter]) -> list[int | Exception]:
        pages.append([letter.id for letter in letters])
        return replay(letters)

    monkeypatch.setattr(store, "replay", replayed)
    ids = ("id-0", "id-1", "gone", "id-2", "id-3")
    answer = letter_answers._change(store, "replay", ids, {}, math.inf)
    assert (answer["done"], answer["gone"], answer["left"]) == (4, 1, 0)
    assert pages == [["id-0"], ["id-1"], ["id-2", "id-3"]]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1}', "null", "7"])
def test_a_malformed_letter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this is not a dead letter"):
        DeadLetter.parse(text)


def test_a_detail_has_neither_secrets_nor_lines() -> None:
    text = dead_letters.described(ValueError("redis://u:geheim@h/0\n" + "x" * 1000))
    assert "geheim" not in text
    assert "\n" not in text
    assert len(text) == dead_letters.LONGEST_DETAIL


@pytest.mark.parametrize("value", [None, True, "7", -1, float("nan"), float("inf"), [], 1e400])
def test_nonsense_in_a_header_counts_as_zero(value: Any) -> None:
    assert dead_letters.header({"headers": {keys.DEATHS: value}}, keys.DEATHS) == 0
