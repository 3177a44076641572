"""The queues and the instances, asked of a real Redis with the rights of the exporter's user."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)

from celery_fleet.cli.exporter import broker as exporter_broker
from celery_fleet.cli.exporter.broker import (
    KEPT,
    ExporterConnection,
    QueueCollector,
    instance,
    sent_at,
)
from celery_fleet.cli.exporter.places import MetricPlaces
from celery_fleet.cli.exporter.program import Settings, collector, connections_of
from celery_fleet.cli.exporter.samples import text
from celery_fleet.cli.exporter.table import COMMANDS_PER_SECOND, LONGEST_PAUSE
from celery_fleet.common.redis_client import ClientError
from celery_fleet.delivery.keys import DEAD_LETTERS_INDEX
from celery_fleet.delivery.messages import SEPARATOR, STEPS
from celery_fleet.health.redis_checks import server as server_of
from tests.facts import facts
from tests.unit.cli.exporter.conftest import PASSWORD, QUEUES, Broker, setup_of
from tests.unit.cli.exporter.documents import labels, parsed


class Clock:
    """The monotonic clock as the collector sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(exporter_broker.time, "monotonic", made)
    return made


def message(sent: float | None = None, body: str = "W10=", **headers: Any) -> str:
    """Return a message as kombu writes it."""
    own = {"task": "shop.pay", "argsrepr": "('x',)", **headers}
    if sent is not None:
        own["x-fleet-sent"] = round(sent, 3)
    properties = {"delivery_tag": "t", "priority": 0}
    return json.dumps({"body": body, "headers": own, "properties": properties})


class Host:
    """The exporter of the host that asks Redis."""

    def __init__(self, directory: Path, port: int) -> None:
        self.setup = setup_of(directory, port)
        self.connection = ExporterConnection(partial(server_of, self.setup, "broker"))
        self.queues = QueueCollector(self.setup, self.connection)

    def read(self) -> dict[str, Any]:
        samples = self.queues()
        assert samples is not None
        return parsed(text(samples))


def scrape(directory: Path, port: int, password: str = PASSWORD) -> dict[str, Any]:
    """Return what a host exports that asks this Redis as all three instances."""
    setup = setup_of(directory, port, password)
    connections = connections_of(setup)
    settings = Settings(15, asks_redis=True, state="")
    try:
        return parsed(
            collector(setup, settings, MetricPlaces("shop", directory), connections).text()
        )
    finally:
        for connection in connections.values():
            connection.close()


@pytest.fixture
def host(broker: Broker, tmp_path: Path, clock: Clock) -> Iterator[Host]:
    made = Host(tmp_path, broker.port)
    yield made
    made.connection.close()


def key(queue: str, step: int) -> str:
    return f"{queue}{SEPARATOR}{step}" if step else queue


def of(queue: str) -> Any:
    return labels(queue_name=queue)


def test_metrics_of_an_idle_broker(host: Host) -> None:
    found = host.read()
    assert found["celery_queue_length"] == {of(queue): 0 for queue in QUEUES}
    assert found["celery_fleet_queue_oldest_seconds"] == {of(queue): 0 for queue in QUEUES}
    for name in ("messages_held", "lease_oldest_seconds", "dead_letters"):
        assert [*found[f"celery_fleet_{name}"].values()] == [0]


def test_metrics_of_a_busy_broker(broker: Broker, host: Host) -> None:
    now = time.time()
    for step, count, age in ((0, 3, 20), (9, 2, 400)):
        # Workers fetch from the right.
        for number in range(count):
            broker.admin.lpush(key("queue1", step), message(now - age + number))
    broker.admin.hset("unacked", mapping={"a": "x", "b": "x"})
    broker.admin.zadd("unacked_index", {"a": now - 50, "b": now - 5})
    broker.admin.zadd(DEAD_LETTERS_INDEX, {"one": 1, "two": 2})
    found = host.read()
    assert found["celery_queue_length"][of("queue1")] == 5
    assert found["celery_queue_length"][of("queue2")] == 0
    assert 400 <= found["celery_fleet_queue_oldest_seconds"][of("queue1")] < 460
    assert [*found["celery_fleet_messages_held"].values()] == [2]
    (lease,) = found["celery_fleet_lease_oldest_seconds"].values()
    assert 50 <= lease < 110
    assert [*found["celery_fleet_dead_letters"].values()] == [2]


def test_a_message_without_a_time_ages_from_when_it_was_first_seen(
    broker: Broker, host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def age(seconds: float) -> float:
        clock.now += 60
        monkeypatch.setattr(exporter_broker.time, "time", lambda: 5000.0 + seconds)
        return float(host.read()["celery_fleet_queue_oldest_seconds"][of("queue1")])

    broker.admin.lpush("queue1", message(id="1"), message(id="2"))
    assert age(0) == 0
    assert age(60) == 60
    broker.admin.lpush("queue1", message(id="3"))
    assert age(120) == 120
    broker.admin.rpop("queue1")
    assert age(180) == 0
    assert age(240) == 60


def test_a_time_in_the_future_is_no_negative_age(broker: Broker, host: Host) -> None:
    broker.admin.lpush("queue1", message(time.time() + 500))
    assert host.read()["celery_fleet_queue_oldest_seconds"][of("queue1")] == 0


@pytest.mark.parametrize(
    ("item", "sent"),
    [
        (message(1700000000.25), 1700000000.25),
        (json.dumps(json.loads(message(1700000000)), separators=(",", ":")), 1700000000),
        (message(), None),
        ("", None),
        ('"x-fleet-sent": soon', None),
        # An argument looks like the header.
        (message(argsrepr='"x-fleet-sent": 5'), None),
        (message(7.0, argsrepr='"x-fleet-sent": 5'), 7.0),
    ],
)
def test_the_time_in_a_message_is_found(item: str, sent: float | None) -> None:
    assert sent_at(item) == sent


def test_a_huge_message_takes_little_memory(
    broker: Broker, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(
        exporter_broker, "sent_at", lambda item: kept.append(len(item)) or sent_at(item)
    )
    broker.admin.lpush("queue1", message(time.time() - 90, "x" * (20 << 20)))
    broker.admin.lpush("queue2", message(time.time() - 80))
    ages = host.read()["celery_fleet_queue_oldest_seconds"]
    assert 90 <= ages[of("queue1")] < 150
    assert 80 <= ages[of("queue2")] < 140
    assert max(kept) == KEPT


def test_a_message_that_is_not_text_is_counted(broker: Broker, host: Host) -> None:
    broker.admin.lpush("queue1", b"\xff\xfe\x00" * 1000)
    assert host.read()["celery_queue_length"][of("queue1")] == 1


def test_something_else_in_place_of_a_queue_is_an_error(broker: Broker, host: Host) -> None:
    broker.admin.set("queue1", "x")
    with pytest.raises(ClientError, match="WRONGTYPE"):
        host.read()


# --- the budget --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "most"),
    [((), 13), ((0,), 75), (STEPS, 220)],
    ids=["idle", "a message in every queue", "and in every priority"],
)
def test_one_collection_needs_few_commands(
    steps: tuple[int, ...], most: int, broker: Broker, tmp_path: Path
) -> None:
    for queue in QUEUES:
        for step in steps:
            broker.admin.lpush(key(queue, step), message(1.0))
    found = scrape(tmp_path, broker.port)
    calls = broker.calls()
    # Here all instances are one server. Each new connection needs AUTH; the last INFO is the test's own.
    assert calls["auth"] == 4
    sent = sum(calls.values()) - calls["auth"] - (calls["info"] - 3)
    assert [*found["celery_fleet_collect_redis_commands_total"].values()] == [sent]
    assert sent <= most
    assert sum(found["celery_queue_length"].values()) == len(QUEUES) * len(steps)
    assert {*found["celery_fleet_collect_error"].values()} == {0, 1}
    (failed,) = (k for k, value in found["celery_fleet_collect_error"].items() if value)
    assert failed == labels(part="units")


@pytest.mark.parametrize("steps", [(), (0,), STEPS])
def test_commands_per_second_over_ten_minutes(
    steps: tuple[int, ...], broker: Broker, host: Host, clock: Clock
) -> None:
    for queue in QUEUES:
        for step in steps:
            broker.admin.lpush(key(queue, step), message(1.0))
    looked = []
    for _ in range(42):
        clock.now += 15
        looked.append(host.queues() is not None)
    assert sum(broker.calls().values()) / (42 * 15) <= COMMANDS_PER_SECOND
    # All queues are full, so they are checked every 45 s.
    assert sum(looked) == (42 if len(steps) < 2 else 14)


def test_even_many_busy_queues_are_checked_every_two_minutes(
    broker: Broker, host: Host, clock: Clock
) -> None:
    host.queues._rate = 0.01
    assert host.queues() is not None
    clock.now += LONGEST_PAUSE - 1
    assert host.queues() is None
    clock.now += 1
    assert host.queues() is not None


# --- connections -------------------------------------------------------------------------------------


def test_metrics_of_an_instance(broker: Broker, host: Host) -> None:
    found = parsed(text(instance("broker", host.connection)))
    assert {name: {*values} for name, values in found.items()} == {
        f"celery_fleet_redis_{name}": {labels(redis="broker")}
        for name in ("up", "seconds", "memory_used_bytes", "memory_max_bytes")
    }
    assert [*found["celery_fleet_redis_memory_max_bytes"].values()] == [1 << 30]


def test_a_primary_has_its_number_of_replicas(
    broker: Broker, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without replicas it accepts no task, but answers."""
    monkeypatch.setattr(ExporterConnection, "has_replicas", True)
    asked: list[Any] = []
    ask_all = ExporterConnection.ask_all

    def counted(connection: ExporterConnection, commands: Any) -> list[Any]:
        asked.append(commands)
        return ask_all(connection, commands)

    monkeypatch.setattr(ExporterConnection, "ask_all", counted)
    found = parsed(text(instance("broker", host.connection)))
    assert found["celery_fleet_redis_replicas"] == {labels(redis="broker"): 0}
    (commands,) = asked
    assert len(commands) == exporter_broker.COMMANDS_OF_INSTANCE
    sync = "slave{}:ip=redis{},port=6379,state={},offset=42,lag=0"
    states = enumerate(("online", "wait_bgsave", "online"))
    about = "\r\n".join(sync.format(number, number, state) for number, state in states)
    monkeypatch.setattr(
        ExporterConnection, "ask_all", lambda *_: ["PONG", ClientError("NOPERM"), about]
    )
    found = parsed(text(instance("broker", host.connection)))
    assert found["celery_fleet_redis_replicas"] == {labels(redis="broker"): 2}


def test_a_server_that_has_become_a_replica_is_left(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExporterConnection, "has_replicas", True)
    closed: list[ExporterConnection] = []
    monkeypatch.setattr(ExporterConnection, "close", lambda self: closed.append(self))
    answers = ["PONG", ClientError("NOPERM"), "role:slave\r\nconnected_slaves:0"]
    monkeypatch.setattr(ExporterConnection, "ask_all", lambda *_: answers)
    found = parsed(text(instance("broker", host.connection)))
    assert "celery_fleet_redis_replicas" not in found
    assert closed == [host.connection]


@pytest.mark.parametrize(("kind", "replicated"), [("broker", True), ("cache", False)])
def test_only_instances_that_sentinels_know_have_replicas(
    kind: str, replicated: bool, tmp_path: Path
) -> None:
    nodes = [{"host": f"redis{number}", "port": 26379} for number in (1, 2, 3)]
    address = {"host": "redis1", "port": 6379, "name": "shop-broker", "sentinels": nodes}
    setup = setup_of(tmp_path, 6379)
    assert not connections_of(setup)[kind].has_replicas
    login = process_settings(facts(broker=address, results=address), "exporter", PASSWORD)
    (tmp_path / "login.json").write_text(json.dumps(login))
    assert connections_of(replace(setup))[kind].has_replicas is replicated


def test_a_service_may_not_tell_its_limit(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["PONG", "used_memory:1024\r\nmaxmemory_policy:noeviction"]
    monkeypatch.setattr(ExporterConnection, "ask_all", lambda *_: answers)
    found = parsed(text(instance("broker", host.connection)))
    assert found["celery_fleet_redis_up"] == {labels(redis="broker"): 1}
    assert found["celery_fleet_redis_memory_used_bytes"] == {labels(redis="broker"): 1024}
    assert "celery_fleet_redis_memory_max_bytes" not in found


def test_an_instance_that_evicts_has_no_limit_to_be_full_at(broker: Broker, host: Host) -> None:
    broker.admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = parsed(text(instance("results", host.connection)))
    finally:
        broker.admin.config_set("maxmemory-policy", "noeviction")
    assert "celery_fleet_redis_memory_used_bytes" in found
    assert "celery_fleet_redis_memory_max_bytes" not in found


def test_the_connection_stays_open_and_is_opened_again(broker: Broker, host: Host) -> None:
    for _ in range(3):
        host.connection.ask_all([("PING",)])
    assert broker.calls()["auth"] == 1
    broker.admin.client_kill_filter(_type="normal", skipme=True)
    assert host.connection.ask_all([("PING",)]) == ["PONG"]
    assert broker.calls()["auth"] == 2


def test_a_wrong_login_is_not_up(broker: Broker, tmp_path: Path) -> None:
    found = scrape(tmp_path, broker.port, "wrong")
    assert {*found["celery_fleet_redis_up"].values()} == {0}
    assert "celery_queue_length" not in found


@pytest.mark.slow
def test_a_redis_that_hangs_does_not_delay_other_metrics(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It accepts connections and never answers: four questions wait 3 s each, at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        found = scrape(tmp_path, silent.getsockname()[1])
        assert time.monotonic() - began < 11
    assert found["celery_fleet_redis_up"] == {
        labels(redis=kind): 0 for kind in ("broker", "results", "cache")
    }
    errors = found["celery_fleet_collect_error"]
    for part in ("broker", "results", "cache", "queues"):
        assert errors[labels(part=part)] == 1
    assert errors[labels(part="memory")] == 0
    assert "celery_queue_length" not in found
    assert "celery_fleet_memory_available_ratio" in found
    said = capfd.readouterr().err
    assert "<4>queues: no answer" in said
    assert "s3cr3t" not in said
