"""Prometheus's own parser reads the text, and names follow its conventions."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from celery_fleet.cli.exporter.metric import Metric
from celery_fleet.cli.exporter.samples import HistogramSample, MetricSample, text
from celery_fleet.cli.exporter.table import BOUNDS, COUNTER, HISTOGRAM, METRICS, SOURCES
from tests.unit.cli.exporter.documents import labels, parsed

#: Names from well-known Celery exporters, so that their dashboards work.
KEPT = {"celery_task_runtime", "celery_active_worker_count", "celery_active_process_count"}

#: Labels of targets. Prometheus renames a metric's own label of the same name.
OF_TARGETS = {"job", "instance", "app", "namespace", "host", "exporter"}


#: What the dashboards of celery-exporter 0.12.2 (its celery-mixin) ask for, without the labels of targets. Only
#: `celery_task_sent_total` is left out: without events nothing counts what is sent.
OF_DASHBOARDS = {
    **{
        f"celery_task_{what}_total": {"name", "queue_name"}
        for what in ("received", "succeeded", "rejected", "retried", "revoked")
    },
    "celery_task_failed_total": {"name", "queue_name", "exception"},
    "celery_task_runtime": {"name", "queue_name"},
    "celery_queue_length": {"queue_name"},
    "celery_worker_tasks_active": set(),
    "celery_worker_up": set(),
}


def sample(metric: Metric) -> MetricSample:
    values = tuple(f"of {label}" for label in metric.labels)
    value = HistogramSample((1.0,) * 14, 3.0) if metric.kind == HISTOGRAM else 1.0
    return MetricSample(metric.name, value, values)


def test_every_metric_is_read_by_prometheus_with_its_type_and_labels() -> None:
    made = text([sample(metric) for metric in METRICS.values()])
    families = {family.name: family for family in text_string_to_metric_families(made.decode())}
    assert len(families) == len(METRICS)
    for name, metric in METRICS.items():
        family = families[name.removesuffix("_total") if metric.kind == COUNTER else name]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        assert {*family.samples[0].labels} - {"le"} == {*metric.labels}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"celery_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == COUNTER)
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", label)
        assert label not in OF_TARGETS
    if metric.name not in KEPT:
        assert not re.search(r"_(count|sum|bucket|ms|milliseconds|percent|mb)$", metric.name)
        assert metric.kind != HISTOGRAM or metric.name.endswith("_seconds")
    assert metric.meaning.endswith(".")
    assert "\n" not in metric.meaning


def test_no_name_is_in_the_table_twice() -> None:
    assert len(METRICS) == sum(len(source.metrics) for source in SOURCES)


def test_a_histogram_has_cumulative_buckets() -> None:
    counts = (1.0, *[0.0] * 6, 2.0, *[0.0] * 5, 4.0)
    found = parsed(
        text(
            [
                MetricSample(
                    "celery_fleet_task_wait_seconds", HistogramSample(counts, 9.5), ("h", "w", "q")
                )
            ]
        )
    )
    own = {"hostname": "h", "worker": "w", "queue_name": "q"}
    buckets = found["celery_fleet_task_wait_seconds_bucket"]
    assert len(buckets) == len(BOUNDS) + 1
    assert buckets[labels(**own, le="0.1")] == 1
    assert buckets[labels(**own, le="30.0")] == 1
    assert buckets[labels(**own, le="60.0")] == 3
    assert buckets[labels(**own, le="3600.0")] == 3
    assert buckets[labels(**own, le="+Inf")] == 7
    assert found["celery_fleet_task_wait_seconds_sum"][labels(**own)] == 9.5


def test_samples_with_equal_labels_are_added_up_because_prometheus_refuses_repeated_lines() -> None:
    one = MetricSample("celery_active_process_count", 2.0, ("mail",))
    runtime = MetricSample(
        "celery_task_runtime", HistogramSample((1.0,) * 14, 2.0), ("t", "h", "w", "q")
    )
    found = parsed(text([one, runtime, one, runtime]))
    assert found["celery_active_process_count"] == {labels(queue_name="mail"): 4}
    assert [*found["celery_task_runtime_count"].values()] == [28]
    assert [*found["celery_task_runtime_sum"].values()] == [4]


@pytest.mark.parametrize(
    "hostile", ['"', "\\", 'a"} 1\nup 1', "\n", "\r", "\0", "{}", "=,", "ä✓😀", " ", "", "x" * 9999]
)
def test_a_label_can_be_any_text(hostile: str) -> None:
    found = parsed(text([MetricSample("celery_queue_length", 1.0, (hostile,))]))
    assert found == {"celery_queue_length": {labels(queue_name=hostile): 1}}


def test_a_dashboard_for_another_exporter_finds_its_metrics() -> None:
    assert OF_DASHBOARDS.keys() <= METRICS.keys()
    for name, wanted in OF_DASHBOARDS.items():
        assert wanted <= set(METRICS[name].labels), name
