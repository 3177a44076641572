"""An alert with the cases that test it, in the forms of Prometheus and of `promtool test rules`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Any, Final

from ..health import Threshold
from .fleet import MonitoredFleet, grouped

# Seconds between two scrapes, and between two evaluations.
INTERVAL: Final = 15
MINUTE: Final = 60.0
WARNING: Final = "warning"
CRITICAL: Final = "critical"
_NAME = re.compile(r"\$(\w+)")
# The name of a metric in an expression.
METRIC: Final = re.compile(r"\b(?:celery_[\w:]+|up)\b")

# Series by their text (`MonitoredFleet.of`) -> first value, and growth with each scrape; None for no such series.
Series = Mapping[str, tuple[float, float] | None]


@dataclass(frozen=True)
class Rule:
    """An alert.

    Attributes:
        alert: Its name.
        severity: `warning` or `critical`.
        expr: Expression that returns what is wrong.
        hold: Seconds for which it must be true.
        within: Seconds after which people are told, at the latest.
        summary: One sentence, in which `$label` is a label of the expression.
        section: Section of the runbook.
        calm: Series with which it is silent, as near to firing as possible.
        fires: Changes to `calm`; it fires with each of them.
        quiet: Further changes to the first case of `fires`; it stays silent with each of them.
        found: Labels of what the expression then returns.
        labels: Further labels, in which `$label` is a label of the expression.
        keep: Seconds for which it goes on firing.
        also: Less severe alerts of the same name that fire as well.
    """

    alert: str
    severity: str
    expr: str
    hold: float
    within: float
    summary: str
    section: str
    calm: Series
    fires: Sequence[Series]
    found: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    keep: float = 0
    also: Sequence[Rule] = ()
    quiet: Sequence[Series] = ()

    def document(self, fleet: MonitoredFleet) -> dict[str, Any]:
        """Return the rule for a file of Prometheus."""
        return {
            "alert": self.alert,
            "expr": self.expr,
            **({"for": f"{math.ceil(self.hold)}s"} if self.hold else {}),
            **({"keep_firing_for": f"{math.ceil(self.keep)}s"} if self.keep else {}),
            "labels": {
                "app": fleet.app,
                "severity": self.severity,
                **{name: templated(text) for name, text in self.labels.items()},
            },
            "annotations": {
                "summary": templated(self.summary),
                "runbook": f"{fleet.runbook}#{self.section}",
            },
        }

    def expected(self, fleet: MonitoredFleet, result: Mapping[str, str]) -> dict[str, Any]:
        """Return the alert for a result of the expression, with these labels."""
        found = {"app": fleet.app, **result}
        own = {name: Template(text).substitute(found) for name, text in self.labels.items()}
        labels = {**found, **own, "severity": self.severity}
        return {
            "exp_labels": labels,
            "exp_annotations": {
                "summary": Template(self.summary).substitute(found),
                "runbook": f"{fleet.runbook}#{self.section}",
            },
        }

    @property
    def metrics(self) -> set[str]:
        """Names of all metrics that it reads."""
        return set(METRIC.findall(self.expr))

    def cases(self, fleet: MonitoredFleet) -> Iterator[dict[str, Any]]:
        """Yield the silent cases and the firing ones."""
        alerts = [rule.expected(fleet, self.found) for rule in (self, *self.also)]
        for series, exp_alerts in (
            (self.calm, []),
            *(({**self.calm, **change}, alerts) for change in self.fires),
            *(({**self.calm, **self.fires[0], **change}, []) for change in self.quiet),
        ):
            steps = math.ceil(self.within / INTERVAL) + 1
            yield {
                "interval": f"{INTERVAL}s",
                "input_series": [
                    {
                        "series": name,
                        "values": f"{plain(values[0])}{values[1]:+f}x{steps}",
                    }
                    for name, values in series.items()
                    if values is not None
                ],
                "alert_rule_test": [
                    {
                        "alertname": self.alert,
                        "eval_time": f"{math.ceil(self.within)}s",
                        "exp_alerts": exp_alerts,
                    }
                ],
            }


def templated(text: str) -> str:
    """Return a text with each `$label` as Prometheus's template of that label."""
    return _NAME.sub(r"{{ $labels.\1 }}", text)


def plain(number: float) -> str:
    """Return a number without an exponent."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def at(value: float, growth: float = 0) -> tuple[float, float]:
    """Return the first value of a series and its growth with each scrape."""
    return (value, growth)


def one(series: str) -> Callable[[str, float], Series]:
    """Return a function that gives a series one value."""
    return lambda _, value: {series: at(value)}


def while_up(fleet: MonitoredFleet, host: str) -> tuple[str, Series]:
    """Return a condition that a host's exporter answers, and a series with which it does."""
    series = fleet.of("up", exporter="fleet", host=host)
    return f"and on () {series} == 1", {series: at(1)}


def counted(fleet: MonitoredFleet, alert: str, metric: str, more: float, **rule: Any) -> Rule:
    """Return a rule for a counter that grows by more than a number in fifteen minutes."""
    host, labels = rule.pop("host"), rule.pop("found")
    series = fleet.of(metric, host=host, **labels)
    fixed = {"result": labels["result"]} if "result" in labels else {}
    return Rule(
        alert,
        WARNING,
        # Prometheus extrapolates, so an increase of 2 becomes a little more than that.
        f"increase({fleet.of(metric, **fixed)}[15m]) > {plain(more + 0.5)}",
        0,
        MINUTE / 2,
        calm={series: at(0)},
        fires=({series: at(0, more + 1)},),
        found={"host": host, **labels},
        **rule,
    )


def graded(
    bounds: Threshold | Mapping[str, Threshold],
    expr: Callable[[str], str],
    series: Callable[[str, float], Series],
    *,
    label: str = "",
    out_of: Collection[str] = ("",),
    found: Callable[[str], Mapping[str, str]],
    summary: str,
    labels: Mapping[str, str] | None = None,
    **rule: Any,
) -> Iterator[Rule]:
    """Yield a rule for each value of a threshold: `warning` is a warning, `bad` is critical.

    Args:
        bounds: The threshold, or that of each host or queue.
        expr: Returns the expression of what is compared with it, from a matcher of labels.
        series: Returns series of a host or queue for which the expression has a value.
        label: The label with the names of hosts or queues.
        out_of: All these names.
        found: Returns the labels of the expression's result for one of them.
        summary: The summary, in which `{}` is the threshold's value.
        labels: The rules' further labels.
        rule: The rules' other fields.
    """
    each = {"": bounds} if isinstance(bounds, Threshold) else bounds
    # With the same value, a warning would never come without the critical alert.
    warnings = {name: one.warning for name, one in each.items() if one.warning != one.bad}
    milder: dict[str, Rule] = {}
    for severity, values in (
        (WARNING, warnings),
        (CRITICAL, {name: one.bad for name, one in each.items()}),
    ):
        given = {name: value for name, value in values.items() if value is not None}
        for value, matcher, names in grouped(label, given, out_of):
            sample = names[0]
            one = each[sample]
            first = value if one.warning is None else one.warning
            made = Rule(
                severity=severity,
                expr=f"{expr(matcher)} {'<=' if one.low else '>='} {plain(value)}",
                summary=summary.format(plain(value)),
                calm=series(sample, first + (0.01 if one.low else -0.01) * max(abs(first), 1)),
                fires=(series(sample, value),),
                found=found(sample),
                # Two rules of a file may not have the same name and labels.
                labels={**(labels or {}), "threshold": plain(value)},
                also=[milder[sample]] if sample in milder else [],
                **rule,
            )
            if severity == WARNING:
                milder |= dict.fromkeys(names, made)
            yield made
