"""Rules, targets and dashboard of a fleet; Prometheus's own `promtool` runs the cases of the rules."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring import (
    fleet as monitoring_fleet,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring import (
    objectives,
    rules,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring.files import (
    RULES,
    alerts,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring.rule import Rule

from celery_fleet.cli.exporter import host, workers
from celery_fleet.cli.exporter.samples import text
from tests.programs import required
from tests.unit.cli.exporter import documents
from tests.unit.monitoring.fleets import GROUPS, SEVERAL, given, hostvars, made, written

ALERTS, OF_SEVERAL = alerts(made()), alerts(made(SEVERAL))


def promtool(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [required("promtool"), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of(name: str, severity: str = "") -> list[Rule]:
    return [rule for rule in ALERTS if rule.alert == name and severity in ("", rule.severity)]


# --- Prometheus itself -----------------------------------------------------------------------------


def test_every_rule_has_a_firing_and_a_silent_case() -> None:
    for rule in [*ALERTS, *OF_SEVERAL]:
        expected = [bool(case["alert_rule_test"][0]["exp_alerts"]) for case in rule.cases(made())]
        assert rule.fires
        assert expected == [False, *[True] * len(rule.fires), *[False] * len(rule.quiet)]
    quiet = {
        *("CeleryQueueLong", "CeleryQueueOld", "CeleryQueueWithoutWorker"),
        "CeleryHealthStale",
    }
    assert {rule.alert for rule in ALERTS if rule.quiet} == quiet


@pytest.mark.slow
@pytest.mark.parametrize("groups", [GROUPS, SEVERAL], ids=["one host of each", "several"])
def test_each_rule_fires_and_is_silent(groups: dict[str, list[str]], tmp_path: Path) -> None:
    for name, content in written(groups).items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    assert "SUCCESS" in promtool(tmp_path, "check", "rules", RULES)
    promtool(tmp_path, "test", "rules", "rules-tests.yml")
    # Each case has both series, because a rule that ignored one of them would still pass one case.
    tests = yaml.safe_load((tmp_path / "rules-tests.yml").read_text())
    tried = {test["alertname"] for one in tests["tests"] for test in one["alert_rule_test"]}
    assert tried == {rule.alert for rule in alerts(made(groups))}


def check(
    directory: Path,
    rule: Rule,
    series: dict[str, str],
    *,
    fires: bool,
    minutes: int = 30,
    interval: int = 15,
) -> None:
    """Check whether Prometheus finds what a rule is about at any time, with values in promtool's form."""
    test = {
        "interval": f"{interval}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count(count_over_time(({rule.expr})[{minutes}m:15s]))",
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }
    document = {"rule_files": [], "evaluation_interval": "15s", "tests": [test]}
    (directory / "test.yml").write_text(yaml.safe_dump(document))
    promtool(directory, "test", "rules", "test.yml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("up", "fires"),
    [("1x120", True), ("_x60 1x60", False)],
    ids=["as the first of their kind", "after a gap"],
)
def test_tasks_that_fail_at_once_raise_an_alert(tmp_path: Path, up: str, fires: bool) -> None:
    """Their series begin with the failures, so there is no earlier value to compare with."""
    labels = 'app="shop",host="worker1"'
    pay = f'{labels},queue_name="mail",name="app.pay"'
    series = {
        f'up{{{labels},exporter="fleet"}}': up,
        f'celery_task_failed_total{{{pay},exception="ValueError"}}': "_x60 12x60",
        f"celery_task_succeeded_total{{{pay}}}": "_x60 1x60",
    }
    (rule, *_) = of("CeleryTasksFailing")
    check(tmp_path, rule, series, fires=fires)


def test_a_worker_has_the_queues_of_all_its_hosts() -> None:
    facts, variables, instances = given()
    facts["nodes"]["mail@worker2"] = {**facts["nodes"]["mail@worker2"], "queues": ["mail", "odd"]}
    found = monitoring_fleet.fleet(facts, variables, instances, runbook="")
    (mail,) = [worker for worker in found.workers if worker.name == "mail"]
    assert mail.queues == ["mail", "mail.high", "odd"]
    # Only these hosts know whether it has a consumer.
    assert rules._hosts_of(found, "mail.high") == ("worker1",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("down", "firing"),
    [("control1", {"bulk", "mail", "odd"}), ("worker2", {"bulk"}), ("worker1", set())],
)
def test_a_host_that_is_down_hides_only_the_queues_of_its_workers(
    tmp_path: Path, down: str, firing: set[str]
) -> None:
    """Each queue lacks a consumer; `bulk` has its worker on one host, the others on both."""
    (rule,) = of("CeleryQueueWithoutWorker")
    series = {f'up{{app="shop",exporter="fleet",host="{down}"}}': "0x20"}
    for queue in ("bulk", "mail", "odd"):
        length = {f'celery_queue_length{{app="shop",host="redis1",queue_name="{queue}"}}': "1x20"}
        check(tmp_path, rule, {**series, **length}, fires=queue in firing)


RELEASE = 'celery_fleet_release_info{{app="shop",host="{}",unit="shop-{}.service",release="{}",state="{}"}}'


@pytest.mark.slow
@pytest.mark.parametrize("late", ["worker@bulk", "beat", "web"])
def test_a_process_with_another_release_raises_an_alert(tmp_path: Path, late: str) -> None:
    """Only workers say which release they run."""
    series = {
        RELEASE.format("worker1", name, "one" if name == late else "two", state): "1x20"
        for name in ("worker@mail", "worker@bulk", "beat", "web")
        for state in ("pinned", *(["running"] if "worker" in name else []))
    }
    (rule,) = of("CeleryReleasesDiffer")
    check(tmp_path, rule, series, fires=True)
    same = {name.replace('"one"', '"two"'): value for name, value in series.items()}
    check(tmp_path, rule, same, fires=False)


def test_the_cases_have_only_series_that_the_exporter_makes(tmp_path: Path) -> None:
    """With a state that no unit has, a rule would fire in its case, and never for a fleet."""
    beat = {"unit": "shop-beat.service", "directory": "/run/shop-beat", "interval": 5}
    setup = documents.setup(
        tmp_path, workers=("mail", "bulk"), beat=beat, units=("shop-web.service",)
    )
    pins = setup.root / "pins"
    pins.mkdir(parents=True)
    for name in ("worker-mail", "worker-bulk", "beat", "web"):
        (pins / name).symlink_to("../releases/one")
    samples = [*host.releases(setup)]
    for node, worker in setup.workers.items():
        file = tmp_path / f"{node}.json"
        documents.write(file, documents.worker())
        samples += workers.worker(node, worker.unit, file)
    made = {
        (dict(labels)["unit"], dict(labels)["state"])
        for labels in documents.parsed(text(samples))["celery_fleet_release_info"]
    }
    used = {
        (found[1], found[2])
        for rule in [*ALERTS, *OF_SEVERAL]
        for change in (rule.calm, *rule.fires, *rule.quiet)
        for series in change
        if (found := re.match(r'celery_fleet_release_info.*unit="(.*?)".*state="(.*?)"', series))
    }
    assert used
    assert used <= made


@pytest.mark.slow
@pytest.mark.parametrize(("restarts", "fires"), [(2, False), (3, True)])
def test_a_unit_may_restart_twice(tmp_path: Path, restarts: int, fires: bool) -> None:
    """Scrapes and evaluations don't coincide, so Prometheus extrapolates."""
    series = 'celery_fleet_unit_restarts_total{app="shop",host="worker1",unit="x"}'
    (rule,) = of("CeleryUnitRestarting")
    check(tmp_path, rule, {series: f"0x100 1x5 {restarts}x100"}, fires=fires, interval=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "fires"),
    [
        ("0x40 stale _x80 1x100", True),
        ("3x40 stale _x80 4x100", True),
        ("3x40 stale _x80 3x100", False),
        ("3x40 stale _x80 0x100", False),
        ("_x121 3x100", False),
        ("3x400", False),
    ],
    ids=["missed", "missed again", "nothing missed", "counts from 0 again", "new", "steady"],
)
def test_a_run_that_was_missed_in_a_long_outage_raises_an_alert(
    tmp_path: Path, values: str, fires: bool
) -> None:
    """Beat's host was down for twenty minutes, and beat counts what it has missed when it starts."""
    labels = 'app="shop",host="control1",entry="nightly",reason="collapsed"'
    (rule,) = of("CeleryBeatMissed")
    check(
        tmp_path,
        rule,
        {f"celery_fleet_beat_missed_total{{{labels}}}": values},
        fires=fires,
        minutes=50,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "fires"), [(59, False), (61, True)])
def test_a_backup_that_was_never_tried_raises_an_alert(
    tmp_path: Path, minutes: int, fires: bool
) -> None:
    """Backups were switched on at the beginning, and there should be one every half an hour."""
    series = 'celery_fleet_redis_backup_enabled_timestamp_seconds{app="shop",host="redis1"}'
    (rule,) = of("CeleryBackupOld", "warning")
    check(tmp_path, rule, {series: "0x300"}, fires=fires, minutes=minutes)


@pytest.mark.slow
@pytest.mark.parametrize(("ahead", "fires"), [(3500, False), (100_000, True)])
def test_a_backup_from_a_time_that_is_still_to_come_raises_an_alert(
    tmp_path: Path, ahead: int, fires: bool
) -> None:
    """Otherwise no failure after it would raise one until that time."""
    series = 'celery_fleet_redis_last_backup_timestamp_seconds{app="shop",host="redis1"}'
    (rule,) = of("CeleryBackupOld", "warning")
    check(tmp_path, rule, {series: f"{ahead}x300"}, fires=fires, minutes=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("running", "fires"), [("1x120", True), ("_x120", False)], ids=["two releases", "no worker"]
)
def test_releases_only_differ_from_what_workers_run(
    tmp_path: Path, running: str, fires: bool
) -> None:
    (rule,) = of("CeleryReleasesDiffer")
    info = 'celery_fleet_release_info{app="shop",host="control1"'
    series = {
        f'{info},unit="shop-worker@mail.service",release="one",state="running"}}': running,
        f'{info},unit="shop-web.service",release="two",state="pinned"}}': "1x120",
    }
    check(tmp_path, rule, series, fires=fires)


def test_only_a_broker_that_is_down_silences_alerts_of_queues_and_workers() -> None:
    """Workers go on without the cache and the results, so what happens to them is another trouble."""
    (rule,) = [
        one
        for one in written()["alertmanager.yml"]["inhibit_rules"]
        if "alertname=CeleryRedisDown" in one["source_matchers"]
    ]
    (down, *_) = of("CeleryRedisDown")
    labels = {**down.found, "alertname": down.alert, "app": "shop"}
    wanted = dict(matcher.split("=", 1) for matcher in rule["source_matchers"])
    silences = {
        redis: wanted.items() <= {**labels, "redis": redis}.items()
        for redis in ("broker", "results", "cache")
    }
    assert "redis" in labels
    assert silences == {"broker": True, "results": False, "cache": False}


@pytest.mark.slow
def test_prometheus_accepts_the_job(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(written()["scrape.yml"]))
    promtool(tmp_path, "check", "config", "--syntax-only", config.name)


@pytest.mark.slow
def test_prometheus_can_parse_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    panels = written()["grafana-dashboard.json"]["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > len(panels) > 15
    rules = [
        {
            "record": f"query:{number}".replace("-", "_"),
            "expr": query.replace("$__rate_interval", "1m"),
        }
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool(tmp_path, "check", "rules", path.name)


# --- what an alert says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [*ALERTS, *OF_SEVERAL], ids=lambda rule: f"{rule.alert}-{rule.severity}"
)
def test_an_alert_says_what_it_is_about(rule: Rule) -> None:
    alert = rule.expected(made(), rule.found)
    labels, summary = alert["exp_labels"], alert["exp_annotations"]["summary"]
    assert labels["app"] == "shop"
    assert labels["severity"] in ("warning", "critical")
    assert summary.endswith(".")
    assert "$" not in summary
    for label in ("host", "worker", "queue", "unit", "entry"):
        if label in labels and label != "host":
            assert labels[label] in summary
    assert ("queue_name" in labels) == ("queue" in labels)
    assert re.fullmatch(r"docs/runbook\.md#[a-z-]+", alert["exp_annotations"]["runbook"])


def test_every_selector_names_the_application() -> None:
    """Several applications share a Prometheus."""
    for group in written()[RULES]["groups"]:
        for rule in group["rules"]:
            selectors = re.findall(r"\{([^{}]*)\}", rule["expr"])
            assert selectors
            assert all('app="shop"' in selector for selector in selectors), rule["expr"]


def test_the_runbook_may_be_elsewhere() -> None:
    from tests.unit.monitoring import fleets

    found = fleets.files(*fleets.given(), "https://docs.example.com/runbook")
    alert = found[RULES]["groups"][-1]["rules"][0]
    assert alert["annotations"]["runbook"].startswith("https://docs.example.com/runbook#")


# --- thresholds ------------------------------------------------------------------------------------


def test_queues_have_their_own_thresholds() -> None:
    lengths = {rule.expr.partition(" unless")[0] for rule in of("CeleryQueueLong")}
    selector = 'celery_queue_length{app="shop",queue_name=~"'
    assert lengths == {
        f'{selector}external|mail|mail\\\\.high|odd"}} >= 50',
        f'{selector}external|mail|mail\\\\.high|odd"}} >= 10000',
        f'{selector}bulk"}} >= 5000',
    }


def test_an_slo_of_the_wait_decides_how_old_a_task_may_get() -> None:
    ages = {
        tuple(re.findall(r'=~"(.*?)"', rule.expr)[0].split("|")): rule.expr.split()[2]
        for rule in of("CeleryQueueOld", "warning")
    }
    assert ages == {
        ("mail", r"mail\\.high"): "60",
        ("bulk",): "600",
        ("external",): "300",
        ("odd",): "7",
    }


def test_hosts_have_their_own_thresholds() -> None:
    exprs = {rule.expr.split("{")[1] for rule in of("CeleryDiskFull", "warning")}
    assert exprs == {
        'app="shop",host=~"redis1|worker1|control1"} <= 15',
        'app="shop",host=~"worker2"} <= 30',
    }
    stale = {rule.expr.rpartition("{")[2] for rule in of("CeleryHealthStale")}
    # worker2 has no check.
    assert stale == {
        'app="shop",host=~"redis1|worker1"}) > 600',
        'app="shop",host=~"control1"}) > 120',
    }


def test_after_a_boot_the_first_health_check_may_end() -> None:
    """Until then the result is from before, so it is older than two intervals."""
    units = Path(__file__).resolve().parents[3] / "templates/systemd"
    timer, service = ((units / f"health.{kind}.j2").read_text() for kind in ("timer", "service"))
    (boot,) = re.findall(r"^OnBootSec=(\d+)min$", timer, re.MULTILINE)
    (delay,) = re.findall(r"^RandomizedDelaySec=.*, (\d+)\] \| min", timer, re.MULTILINE)
    (limit,) = re.findall(r"^TimeoutStartSec=(\d+)s$", service, re.MULTILINE)
    scrape_and_evaluation = 30
    first = 60 * int(boot) + int(delay) + int(limit) + scrape_and_evaluation
    assert {rule.hold >= first for rule in of("CeleryHealthStale")} == {True}


def test_a_warning_that_is_bad_as_well_is_one_alert() -> None:
    assert [rule.severity for rule in of("CeleryDeadLetters")] == ["critical"]


def test_null_means_never() -> None:
    thresholds = {"queue_age_seconds": {"warning": None, "bad": None}}
    found = alerts(made(celery_monitoring_thresholds=thresholds))
    # redis1 overrides the variable.
    assert {rule.alert for rule in found} == {rule.alert for rule in ALERTS}
    silent = alerts(
        made(celery_health_thresholds={"certificate_days": thresholds["queue_age_seconds"]})
    )
    hosts = [rule.expr for rule in silent if rule.alert == "CeleryCertificateExpires"]
    assert hosts
    assert all("redis1|worker2" in expr for expr in hosts)


def test_releases_may_differ_for_as_long_as_the_longest_drain() -> None:
    # `odd` drains for 600 s.
    assert [rule.hold for rule in of("CeleryReleasesDiffer")] == [900]
    assert of("CeleryReleasesDiffer")[0].document(made())["for"] == "900s"


# --- hosts -----------------------------------------------------------------------------------------


def test_a_host_without_an_exporter_is_not_missed() -> None:
    names = {
        rule.found["host"]
        for rule in alerts(made())
        if rule.alert in ("CeleryTargetMissing", "CeleryWorkerDown")
    }
    assert names == {"redis1", "worker1", "worker2", "control1"}


def test_a_fleet_without_the_exporter_that_asks_redis_is_refused() -> None:
    with pytest.raises(
        ValueError, match="redis1 has no exporter, and it is the host that asks Redis"
    ):
        made(celery_exporter_enabled=False)


def test_targets_are_the_exporters_that_can_be_reached() -> None:
    targets = written()["targets.json"]
    found = {
        target["labels"]["host"]: target["targets"]
        for target in targets
        if target["labels"]["exporter"] == "fleet"
    }
    assert found == {
        "redis1": ["redis1:9808"],
        "worker1": ["worker1.example.com:9808"],
        "control1": ["control1:9900"],
    }
    others = [target for target in targets if target["labels"]["exporter"] != "fleet"]
    assert [(target["targets"], target["labels"]) for target in others] == [
        (
            ["redis1:9808"],
            {
                "app": "shop",
                "namespace": "shop",
                "host": "redis1",
                "exporter": "postgres",
                "__metrics_path__": "/postgres",
            },
        )
    ]


def test_known_exporters_are_targets_where_they_are() -> None:
    enabled = {f"celery_exporter_{name}_enabled": True for name in ("node", "redis", "flower")}
    targets = written(**enabled)["targets.json"]
    paths: dict[str, list[str]] = {}
    for target in (one["labels"] for one in targets if one["labels"]["exporter"] != "fleet"):
        paths.setdefault(target["host"], []).append(target["__metrics_path__"])
        if target["exporter"] == "redis":
            assert target["__metrics_path__"] == f"/redis-{target['redis']}"
    # worker2's is for an agent.
    assert paths == {
        "redis1": ["/node", "/redis-broker", "/redis-results", "/postgres"],
        "worker1": ["/node"],
        "control1": ["/node", "/flower"],
    }


def test_a_queue_whose_workers_have_no_exporter_has_no_alert_about_consumers() -> None:
    """Without its worker's exporter, the queue would seem to have no consumer."""
    rules = "prometheus-rules.yml"
    everywhere = json.dumps(written()[rules])
    assert "CeleryQueueWithoutWorker" in everywhere
    assert made().uncounted == []
    partly = hostvars()
    partly["worker1"]["celery_exporter_enabled"] = False
    facts, _, instances = given()
    some = monitoring_fleet.fleet(facts, partly, instances, runbook="")
    # worker2 has an exporter, but not these workers.
    assert set(some.uncounted) >= {"mail", "mail.high", "bulk"}


def test_nothing_secret_is_written() -> None:
    text = json.dumps(written(celery_exporter_auth_password="hush", celery_exporter_auth_user="me"))
    assert '"username": "me"' in text
    assert "hush" not in text


# --- SLOs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s", 30),
        ("500ms", 0.5),
        ("0.5s", 0.5),
        ("1 h", 3600),
        ("30", None),
        ("1d", None),
        ("", None),
    ],
)
def test_durations_are_parsed(text: str, value: float | None) -> None:
    assert objectives.seconds(text) == value


def test_durations_are_shown_as_they_are_written() -> None:
    shown = [objectives.duration(one) for one in objectives.BUCKETS]
    assert shown == [
        "100ms",
        "500ms",
        "1s",
        "2s",
        "5s",
        "10s",
        "30s",
        "1m",
        "2m",
        "5m",
        "10m",
        "30m",
        "1h",
    ]
    assert [objectives.seconds(one) for one in shown] == [*objectives.BUCKETS]


def test_objectives_have_error_budgets() -> None:
    slo: dict[str, Any] = {"wait": "30s", "objective": "99.5%", "failures": "0.1%"}
    assert [one[:3] for one in objectives.objectives(slo)] == [
        ("wait", 0.005, 30.0),
        ("failures", 0.001, 0.0),
    ]
    assert objectives.objectives({}) == []
    with pytest.raises(ValueError, match="can't be measured"):
        objectives.objectives({"wait": "45s"})


def test_the_shares_of_all_workers_are_recorded() -> None:
    record = written()[RULES]["groups"][0]["rules"]
    # There are two waits, and the failures of both workers together.
    assert len(record) == 3 * 7
    assert len(of("CelerySloBurnFast")) == 3


def test_a_wait_that_most_senders_hide_is_told_for_the_workers_that_promise_one() -> None:
    (rule,) = of("CelerySloUnmeasured")
    slos = {
        worker.name: {slo.kind for slo in worker.slos} for worker in made().workers if worker.hosts
    }
    named = re.findall(r'worker=~"([^"]+)"', rule.expr)
    assert {*named[0].split("|")} == {name for name, kinds in slos.items() if "wait" in kinds}
    assert {"failures"} in slos.values() or set() in slos.values()
