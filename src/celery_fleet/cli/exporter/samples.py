"""Values of metrics, and their text in Prometheus's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from celery_fleet.cli.exporter.table import BOUNDS, COUNTER, METRICS

_BOUNDS = [*map(repr, BOUNDS), "+Inf"]


class HistogramSample(NamedTuple):
    """A histogram: the counts of its buckets, not cumulative, and the sum of its values in seconds."""

    buckets: tuple[float, ...]
    sum: float


class MetricSample(NamedTuple):
    """One value of a metric in the table. Samples with the same name and labels are added up."""

    name: str
    value: float | HistogramSample
    labels: tuple[str, ...] = ()


def text(samples: Iterable[MetricSample]) -> bytes:
    """Return the text of some samples, in the order of the table."""
    return generate_latest(_Families(samples))


class _Families(Collector):
    """The samples as `generate_latest` takes them."""

    def __init__(self, samples: Iterable[MetricSample]) -> None:
        self._numbers: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], HistogramSample]] = {}
        for name, value, labels in samples:
            if isinstance(value, HistogramSample):
                histograms = self._histograms.setdefault(name, {})
                histograms[labels] = _both(histograms.get(labels), value)
            else:
                numbers = self._numbers.setdefault(name, {})
                numbers[labels] = numbers.get(labels, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        """Yield each metric that has samples."""
        for name, about in METRICS.items():
            if name in self._histograms:
                histogram = HistogramMetricFamily(name, about.meaning, labels=about.labels)
                for labels, value in self._histograms[name].items():
                    counts = zip(_BOUNDS, accumulate(value.buckets), strict=True)
                    histogram.add_metric(labels, list(counts), value.sum)
                yield histogram
            if name in self._numbers:
                kind = CounterMetricFamily if about.kind == COUNTER else GaugeMetricFamily
                family = kind(name, about.meaning, labels=about.labels)
                for labels, number in self._numbers[name].items():
                    family.add_metric(labels, number)
                yield family


def _both(one: HistogramSample | None, two: HistogramSample) -> HistogramSample:
    if one is None:
        return two
    counts = zip(one.buckets, two.buckets, strict=True)
    return HistogramSample(tuple(map(sum, counts)), one.sum + two.sum)
