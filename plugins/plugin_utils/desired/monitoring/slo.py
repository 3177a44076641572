"""Rules that alert if a worker breaks its SLO: several windows and burn rates, as the SRE workbook recommends.

The burn rate says how many times too fast the error budget is used. A long window makes sure that it matters, a short
one ends the alert soon after the fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .fleet import MonitoredFleet, any_of
from .objectives import Objective, duration
from .rule import CRITICAL, MINUTE, WARNING, Rule, Series, at, plain
from .rules import FEWEST, failed_and_ended

_WAIT: Final = "celery_fleet_task_wait_seconds"
_UNKNOWN: Final = "celery_fleet_task_wait_unknown_total"
# Tasks with each scrape.
_MANY: Final = 1_000_000
RECORDED: Final = "celery_fleet:slo_bad:ratio_rate"


class Burn(NamedTuple):
    """A burn rate, with the long and the short window in which it counts."""

    long: str
    short: str
    factor: float


ALERTS: Final[Mapping[str, tuple[str, tuple[Burn, Burn]]]] = {
    "CelerySloBurnFast": (CRITICAL, (Burn("1h", "5m", 14.4), Burn("6h", "30m", 6))),
    "CelerySloBurnSlow": (WARNING, (Burn("1d", "2h", 3), Burn("3d", "6h", 1))),
}
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def recorded(fleet: MonitoredFleet) -> Iterator[dict[str, Any]]:
    """Yield recording rules: the share of each worker's tasks that broke an SLO, for each window."""
    measures: dict[tuple[str, float], list[str]] = {}
    for slo, workers in _slos(fleet).items():
        measures.setdefault((slo.kind, slo.seconds), []).extend(workers)
    for (kind, seconds), workers in measures.items():
        for window in WINDOWS:
            broken, counted = _measured(fleet, workers, kind, seconds, window)
            yield {
                "record": f"{RECORDED}{window}",
                "expr": f"{broken} / {counted}",
                "labels": _labels(kind, seconds),
            }


def rules(fleet: MonitoredFleet) -> Iterator[Rule]:
    """Yield the alerts of all SLOs."""
    for slo, workers in _slos(fleet).items():
        for alert, (severity, burns) in ALERTS.items():
            least = min(burn.factor for burn in burns)
            rate = "the allowed rate" if least == 1 else f"{plain(least)} times the allowed rate"
            yield Rule(
                alert,
                severity,
                " or ".join(f"({_burns(fleet, workers, slo, burn)})" for burn in burns),
                MINUTE,
                3 * MINUTE,
                f"The worker $worker uses its error budget ({slo.words}) at {rate} or faster.",
                "an-slo-burns",
                # All windows see the same share here.
                calm=_tasks(fleet, workers[0], slo, 0.99 * least * slo.budget),
                fires=(_tasks(fleet, workers[0], slo, 1.01 * least * slo.budget),),
                found={"worker": workers[0], **_labels(slo.kind, slo.seconds)},
                labels={"objective": slo.words},
                keep=5 * MINUTE,
            )


def unmeasured(fleet: MonitoredFleet) -> Iterator[Rule]:
    """Yield the alert for workers of which the wait SLO covers less than half of the tasks."""
    workers = [name for slo, names in _slos(fleet).items() if slo.kind == "wait" for name in names]
    if not workers:
        return
    unknown, known = (
        _increase(fleet.of(metric, f"worker=~{any_of(workers)}"), "1h")
        for metric in (_UNKNOWN, f"{_WAIT}_count")
    )
    labels = {"host": fleet.collector, "worker": workers[0], "queue_name": "mail"}
    series = [fleet.of(metric, **labels) for metric in (_UNKNOWN, f"{_WAIT}_count")]
    yield Rule(
        "CelerySloUnmeasured",
        WARNING,
        f"{unknown} > {known} and {unknown} >= {FEWEST}",
        5 * MINUTE,
        7 * MINUTE,
        "Most tasks of the worker $worker do not say when they were sent, so its SLO for waits covers only the others.",
        "an-slo-is-not-measured",
        calm={series[0]: at(0, 99), series[1]: at(0, 100)},
        fires=({series[0]: at(0, 101)},),
        found={"worker": workers[0]},
    )


def _slos(fleet: MonitoredFleet) -> dict[Objective, list[str]]:
    """Return the names of the workers with each SLO."""
    found: dict[Objective, list[str]] = {}
    for worker in fleet.workers:
        for slo in worker.slos if worker.hosts else ():
            found.setdefault(slo, []).append(worker.name)
    return found


def _labels(kind: str, seconds: float) -> dict[str, str]:
    """Return the labels of what is recorded."""
    return {"slo": kind, **({"wait": duration(seconds)} if seconds else {})}


def _measured(
    fleet: MonitoredFleet, workers: Sequence[str], kind: str, seconds: float, window: str
) -> tuple[str, str]:
    """Return how many tasks of each worker broke an SLO in a window, and how many count."""
    matcher = f"worker=~{any_of(workers)}"
    if kind == "failures":
        return failed_and_ended(fleet, "app, worker", window, matcher)
    good, started = (
        _increase(selector, window)
        for selector in (
            fleet.of(f"{_WAIT}_bucket", matcher, le=str(seconds)),
            fleet.of(f"{_WAIT}_count", matcher),
        )
    )
    return f"({started} - {good})", started


def _increase(selector: str, window: str) -> str:
    """Return by how much a worker's series have grown in a window."""
    return f"sum by (app, worker) (increase({selector}[{window}]))"


def _burns(fleet: MonitoredFleet, workers: Sequence[str], slo: Objective, burn: Burn) -> str:
    matcher = f"worker=~{any_of(workers)}"
    shares = (
        f"{fleet.of(RECORDED + window, matcher, **_labels(slo.kind, slo.seconds))} > {plain(burn.factor * slo.budget)}"
        for window in (burn.long, burn.short)
    )
    _, counted = _measured(fleet, workers, slo.kind, slo.seconds, burn.long)
    return f"{' and '.join(shares)} and on (app, worker) {counted} >= {FEWEST}"


def _tasks(fleet: MonitoredFleet, worker: str, slo: Objective, broken: float) -> Series:
    """Return series of a worker with many tasks, a share of which breaks its SLO."""
    labels = {"host": fleet.collector, "worker": worker, "queue_name": "mail"}
    bad = broken * _MANY
    if slo.kind == "failures":
        return {
            fleet.of("celery_task_failed_total", **labels, exception="ValueError"): at(0, bad),
            fleet.of("celery_task_succeeded_total", **labels): at(0, _MANY - bad),
        }
    return {
        fleet.of(f"{_WAIT}_bucket", **labels, le=str(slo.seconds)): at(0, _MANY - bad),
        fleet.of(f"{_WAIT}_count", **labels): at(0, _MANY),
    }
