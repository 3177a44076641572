"""Prometheus sees what happens in the fleet: targets, counts, and alerts that fire in time and clear."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from prometheus import HOST, Prometheus
from support import database
from support.inventory import Fleet
from support.tasks import Task, send, tracer
from support.waiting import wait_for

#: Seconds in which a fleet without a fault raises no alert.
QUIET = 600

#: Seconds that may pass beyond the documented ones: two scrapes and two evaluations.
SLACK = 60


def test_each_exporter_asks_for_the_password(fleet: Fleet, prometheus: Prometheus) -> None:
    user = f"prometheus:{fleet.of('fleet')['celery_exporter_auth_password']}"
    ask = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    ask += ["--cacert", "/etc/prometheus/celery-fleet/flexiprice/ca.crt"]
    for host in fleet.hosts("fleet"):
        url = f"https://{host}:9808"
        assert fleet.must(HOST, [*ask, f"{url}/metrics"]) == "401"
        assert fleet.must(HOST, [*ask, "--user", user, f"{url}/metrics"]) == "200"
        assert fleet.must(HOST, [*ask, "--user", user, f"{url}/other"]) == "404"
        assert fleet.must(HOST, [*ask, f"{url}/node"]) == "401"
        assert fleet.must(HOST, [*ask, "--user", user, f"{url}/node?target=other"]) == "400"


def test_no_part_of_an_exporter_fails(prometheus: Prometheus) -> None:
    failing = prometheus.query("celery_fleet_collect_error == 1")
    assert [series["metric"] for series in failing] == []


@pytest.mark.parametrize(
    ("exporter", "hosts", "query"),
    [
        ("node", ["control1", "redis1", "worker1", "worker2"], "node_load1"),
        ("redis", ["redis1"], "redis_up == 1"),
        ("flower", ["control1"], "flower_worker_online == 1"),
    ],
)
def test_other_exporters_are_scraped(
    prometheus: Prometheus, exporter: str, hosts: list[str], query: str
) -> None:
    wait_for(
        f"{exporter} is there",
        60,
        lambda: {series["metric"]["host"] for series in prometheus.query(query)} == set(hosts),
        pause=2,
    )
    assert len(prometheus.query(f'up{{exporter="{exporter}"}} == 1')) == len(hosts)


def test_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    groups = prometheus.ask("api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}


def test_tasks_are_counted_by_what_became_of_them(fleet: Fleet, prometheus: Prometheus) -> None:
    def total(state: str) -> float:
        counts = prometheus.query(f'sum(celery_task_{state}_total{{queue_name="analytics"}})')
        return float(counts[0]["value"][1]) if counts else 0.0

    before = {state: total(state) for state in ("succeeded", "failed")}
    send(fleet, [tracer("counted", "analytics", 0)] * 7)
    send(fleet, [Task("app.tasks.my_custom_task", "analytics")] * 3)
    wait_for(
        "they are counted",
        60,
        lambda: (
            {state: total(state) - before[state] for state in before}
            == {"succeeded": 7, "failed": 3}
        ),
        pause=2,
    )


def test_nothing_fires_in_a_quiet_fleet(prometheus: Prometheus) -> None:
    """In ten minutes. The tasks that failed above are too few for an alert, but not for an objective."""
    started = datetime.fromisoformat(
        prometheus.ask("api/v1/status/runtimeinfo")["data"]["startTime"]
    )
    time.sleep(max(0.0, (started - datetime.now(UTC)).total_seconds() + QUIET))
    fired = prometheus.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{QUIET}s])')
    names = {series["metric"]["alertname"] for series in fired}
    assert {name for name in names if not name.startswith("CelerySlo")} == set()


# --- faults ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something that breaks: how it is done and undone, and what is told within some seconds."""

    labels: dict[str, str]
    seconds: float
    host: str
    do: str
    undo: str


# All at once, each on its own part of the fleet.
FAULTS = {
    "a worker stops": Fault(
        {"alertname": "CeleryWorkerDown", "host": "worker2", "worker": "discounts"},
        120,
        "worker2",
        "systemctl stop flexiprice-worker@discounts",
        "systemctl start flexiprice-worker@discounts",
    ),
    "beat stops": Fault(
        {"alertname": "CeleryBeatDown", "host": "control1"},
        240,
        "control1",
        "systemctl stop flexiprice-beat",
        "systemctl start flexiprice-beat",
    ),
    "a certificate expires": Fault(
        {"alertname": "CeleryCertificateExpires", "host": "worker1"},
        120,
        "worker1",
        "cd /etc/celery-fleet/flexiprice/pki && cp -p host.crt /var/tmp/ && openssl req -x509 -key host.key -days 3 "
        "-subj /CN=worker1 -addext subjectAltName=DNS:worker1 -out host.crt",
        "cp -p /var/tmp/host.crt /etc/celery-fleet/flexiprice/pki/host.crt",
    ),
    "a disk is full": Fault(
        {"alertname": "CeleryDiskFull", "host": "redis1"},
        120,
        "redis1",
        "mkdir -p /var/log/flexiprice && mount -t tmpfs -o size=1m tmpfs /var/log/flexiprice && "
        "head -c 1000000 /dev/zero >/var/log/flexiprice/full",
        "umount /var/log/flexiprice",
    ),
}


@pytest.fixture(scope="module")
def broken(fleet: Fleet, prometheus: Prometheus) -> Callable[[str], float]:
    """Break all of it; return when each fault began."""
    began = {}
    for title, fault in FAULTS.items():
        fleet.must(fault.host, fault.do)
        began[title] = time.monotonic()
    return began.__getitem__


@pytest.mark.parametrize("title", FAULTS)
def test_a_fault_is_told_in_time(
    prometheus: Prometheus, broken: Callable[[str], float], title: str
) -> None:
    fault = FAULTS[title]
    left = fault.seconds + SLACK - (time.monotonic() - broken(title))
    wait_for(title, left, lambda: prometheus.fires(**fault.labels), pause=2)
    assert prometheus.told(fault.labels["alertname"])


@pytest.mark.parametrize("title", FAULTS)
def test_what_is_mended_is_quiet(fleet: Fleet, prometheus: Prometheus, title: str) -> None:
    fault = FAULTS[title]
    fleet.must(fault.host, fault.undo)
    wait_for(f"not: {title}", 180, lambda: not prometheus.fires(**fault.labels), pause=2)


def test_failing_tasks_are_told(fleet: Fleet, prometheus: Prometheus) -> None:
    send(fleet, [Task("app.tasks.my_custom_task", "maintenance")] * 12)
    labels = {
        "alertname": "CeleryTasksFailing",
        "name": "app.tasks.my_custom_task",
        "queue_name": "maintenance",
    }
    wait_for("they fail", 180 + SLACK, lambda: prometheus.fires(**labels), pause=2)
    wait_for("none fails now", 420, lambda: not prometheus.fires(**labels), pause=5)


def test_a_long_queue_is_told(fleet: Fleet, prometheus: Prometheus) -> None:
    send(fleet, [tracer("long", "analytics", 2)] * 90)
    labels = {"alertname": "CeleryQueueLong", "queue_name": "analytics"}
    wait_for("the queue is long", 120 + SLACK, lambda: prometheus.fires(**labels), pause=2)
    wait_for("it is not", 400, lambda: not prometheus.fires(**labels), pause=5)


def test_redis_that_is_down_is_told(fleet: Fleet, prometheus: Prometheus) -> None:
    fleet.must("redis1", "systemctl stop redis@flexiprice-broker")
    labels = {"alertname": "CeleryRedisDown", "host": "redis1"}
    try:
        wait_for("Redis is down", 75 + SLACK, lambda: prometheus.fires(**labels), pause=2)
    finally:
        fleet.must("redis1", "systemctl start redis@flexiprice-broker")
    wait_for("it is not", 120, lambda: not prometheus.fires(**labels), pause=2)


def test_a_frozen_exporter_slows_no_worker(fleet: Fleet, prometheus: Prometheus) -> None:
    for host in fleet.hosts("fleet"):
        fleet.must(host, "systemctl kill --signal=SIGSTOP flexiprice-exporter")
    try:
        send(fleet, [tracer(f"frozen-{number}", "discounts", 0) for number in range(200)])
        database.assert_ran_once(fleet, "frozen-", 200, 60)
    finally:
        for host in fleet.hosts("fleet"):
            fleet.must(host, "systemctl kill --signal=SIGCONT flexiprice-exporter")
    prometheus.wait_for_all_targets()
