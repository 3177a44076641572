"""Prometheus sees what happens in the fleet: targets, counts, and alerts that fire in time and clear."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from browser import Browser
from load import Load
from prometheus import HOST, Prometheus
from support import database
from support.inventory import Fleet
from support.tasks import Task, send, tracer
from support.waiting import wait_for

#: Tasks of a burst.
BURST = 200

UNIT_IS_ACTIVE = (
    'node_systemd_unit_state{name="flexiprice-worker@discounts.service",host="worker2",'
    'state="active"} == 1'
)


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
        ("node", ["worker2"], UNIT_IS_ACTIVE),
        ("redis", ["redis1"], 'redis_up{redis="broker"} == 1'),
        ("redis", ["redis1"], 'redis_up{redis="results"} == 1'),
        ("redis", ["redis1"], 'redis_slowlog_length{redis="broker"}'),
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
    assert prometheus.query(f'up{{exporter="{exporter}"}} == 0') == []


def test_text_files_of_a_host_are_metrics(fleet: Fleet, prometheus: Prometheus) -> None:
    path = "/var/lib/prometheus/node-exporter/backup.prom"
    fleet.must("worker1", f"echo backup_succeeded_timestamp_seconds 1700000000 >{path}")
    try:
        wait_for(
            "the text file is there",
            60,
            lambda: prometheus.query('backup_succeeded_timestamp_seconds{host="worker1"}'),
            pause=2,
        )
    finally:
        fleet.must("worker1", ["rm", path])


def test_debians_own_exporters_do_not_run(fleet: Fleet) -> None:
    """They would listen on all addresses."""
    for host in fleet.hosts("fleet"):
        listening = fleet.must(host, "ss --listening --tcp --numeric --no-header")
        addresses = {line.split()[3] for line in listening.splitlines()}
        ours = {"127.0.0.1:9100", *(["127.0.0.1:9121"] if host == "redis1" else [])}
        assert {one for one in addresses if one.endswith((":9100", ":9121"))} == ours


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


# --- faults ------------------------------------------------------------------------------------------


Act = Callable[[Fleet], object]


@dataclass(frozen=True)
class Fault:
    """A fault: the alert that it raises, how it is made and how it is undone."""

    labels: dict[str, str]
    do: Act
    undo: Act = lambda _: None


def on(host: str, command: str) -> Act:
    """Run a command on a host."""
    return lambda fleet: fleet.must(host, command)


# All at once, each on its own part of the fleet.
FAULTS = {
    "a worker stops": Fault(
        {"alertname": "CeleryWorkerDown", "host": "worker2", "worker": "discounts"},
        on("worker2", "systemctl stop flexiprice-worker@discounts"),
        on("worker2", "systemctl start flexiprice-worker@discounts"),
    ),
    "beat stops": Fault(
        {"alertname": "CeleryBeatDown", "host": "control1"},
        on("control1", "systemctl stop flexiprice-beat"),
        on("control1", "systemctl start flexiprice-beat"),
    ),
    "a certificate expires": Fault(
        {"alertname": "CeleryCertificateExpires", "host": "worker1"},
        on(
            "worker1",
            "cd /etc/celery-fleet/flexiprice/pki && cp -p host.crt /var/tmp/ && openssl req -x509 -key host.key "
            "-days 3 -subj /CN=worker1 -addext subjectAltName=DNS:worker1 -out host.crt",
        ),
        on("worker1", "cp -p /var/tmp/host.crt /etc/celery-fleet/flexiprice/pki/host.crt"),
    ),
    "a disk is full": Fault(
        {"alertname": "CeleryDiskFull", "host": "redis1"},
        on(
            "redis1",
            "mkdir -p /var/log/flexiprice && mount -t tmpfs -o size=1m tmpfs /var/log/flexiprice && "
            "head -c 1000000 /dev/zero >/var/log/flexiprice/full",
        ),
        on("redis1", "umount /var/log/flexiprice"),
    ),
    "tasks fail": Fault(
        {
            "alertname": "CeleryTasksFailing",
            "name": "app.tasks.my_custom_task",
            "queue_name": "maintenance",
        },
        lambda fleet: send(fleet, [Task("app.tasks.my_custom_task", "maintenance")] * 12),
    ),
    "a queue is long": Fault(
        {"alertname": "CeleryQueueLong", "queue_name": "analytics"},
        lambda fleet: send(fleet, [tracer("long", "analytics", 2)] * 160),
    ),
}


@pytest.fixture(scope="module")
def load(fleet: Fleet) -> Iterator[Load]:
    """Tasks are sent all the time while things break."""
    sending = Load(fleet, "during-faults", "discounts")
    yield sending
    sending.end()


@pytest.fixture(scope="module")
def broken(fleet: Fleet, prometheus: Prometheus, load: Load) -> Callable[[str], float]:
    """Break all of it; return when each fault began."""
    began = {}
    for title, fault in FAULTS.items():
        fault.do(fleet)
        began[title] = time.monotonic()
    return began.__getitem__


@pytest.mark.parametrize("title", FAULTS)
def test_a_fault_raises_its_alert_in_time(
    prometheus: Prometheus,
    broken: Callable[[str], float],
    note: Callable[[str], None],
    title: str,
) -> None:
    labels = FAULTS[title].labels
    seconds = prometheus.wait_for_alert(broken(title), **labels)
    note(f"{labels['alertname']} after {seconds:.0f} s or less")


def test_the_page_of_alerts_shows_them(prometheus: Prometheus, browser: Browser) -> None:
    address = "http://127.0.0.1:9090/classic/alerts"
    (page,) = browser.show(
        {"url": address, "wait": "CeleryWorkerDown", "name": "prometheus-alerts"}
    )
    firing = {alert["alertname"] for alert in prometheus.firing()}
    assert {fault.labels["alertname"] for fault in FAULTS.values()} <= firing
    # Rules of the same name differ in their severity.
    shown = {
        name for name, number in re.findall(r"(\w+) \((\d+) active\)", page["text"]) if int(number)
    }
    assert firing <= shown


@pytest.mark.parametrize("title", FAULTS)
def test_an_alert_ends_after_its_fault(fleet: Fleet, prometheus: Prometheus, title: str) -> None:
    """Alerts about counts over minutes end by themselves after that time."""
    fault = FAULTS[title]
    fault.undo(fleet)
    prometheus.wait_for_end(420, **fault.labels)


@pytest.mark.usefixtures("load")
def test_a_redis_that_is_down_raises_its_alert(
    fleet: Fleet, prometheus: Prometheus, note: Callable[[str], None]
) -> None:
    fleet.must("redis1", "systemctl stop redis@flexiprice-broker")
    began = time.monotonic()
    labels = {"alertname": "CeleryRedisDown", "host": "redis1"}
    try:
        note(f"after {prometheus.wait_for_alert(began, **labels):.0f} s")
    finally:
        fleet.must("redis1", "systemctl start redis@flexiprice-broker")
    prometheus.wait_for_end(120, **labels)


def test_no_fault_has_lost_a_task(fleet: Fleet, load: Load, note: Callable[[str], None]) -> None:
    sent = load.end()
    note(f"{sent} tasks were sent meanwhile")
    assert sent > 100
    wait_for("all have ended", 120, lambda: len(set(load.ended())) >= sent, pause=2)
    assert len(set(load.ended())) == sent


def burst(fleet: Fleet, title: str) -> float:
    """Send tasks; return the seconds until all of them have ended."""
    began = time.monotonic()
    send(fleet, [tracer(f"{title}-{number}", "discounts", 0) for number in range(BURST)])
    database.assert_ran_once(fleet, f"{title}-", BURST, 60)
    return time.monotonic() - began


def test_monitoring_that_hangs_slows_no_worker(
    fleet: Fleet, prometheus: Prometheus, note: Callable[[str], None]
) -> None:
    """The exporters, Prometheus and Alertmanager, all of them frozen."""
    frozen = [(host, "flexiprice-exporter") for host in fleet.hosts("fleet")]
    frozen += [(HOST, "prometheus"), (HOST, "prometheus-alertmanager")]
    usual = [burst(fleet, f"usual-{number}") for number in range(3)]
    for host, unit in frozen:
        fleet.must(host, f"systemctl kill --signal=SIGSTOP {unit}")
    try:
        without = [burst(fleet, f"frozen-{number}") for number in range(3)]
    finally:
        for host, unit in frozen:
            fleet.must(host, f"systemctl kill --signal=SIGCONT {unit}")
    note(
        f"{BURST} tasks took {min(usual):.1f} to {max(usual):.1f} s, without monitoring {min(without):.1f} to"
        f" {max(without):.1f} s"
    )
    # A worker that waited for an exporter would wait for seconds.
    assert min(without) < 1.25 * max(usual)
    prometheus.wait_for_all_targets()
