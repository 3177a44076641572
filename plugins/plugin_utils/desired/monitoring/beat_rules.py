"""The alerts about beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from ..health import Threshold
from .fleet import MonitoredFleet, any_of
from .rule import CRITICAL, INTERVAL, MINUTE, WARNING, Rule, at, counted, graded, one, while_up

_SECTION: Final = "beat-sends-nothing"


def rules(fleet: MonitoredFleet) -> Iterator[Rule]:
    """Yield the alerts about beat; none if one of its hosts has no exporter."""
    if not fleet.beats:
        return
    yield from _down(fleet)
    # Of several, any may be the one that sends.
    host = fleet.beats[-1]
    fixed = {"host": host} if len(fleet.beats) == 1 else {}
    tick, overdue = (
        fleet.of(f"celery_fleet_beat_{what}_seconds", **fixed)
        for what in ("tick_timestamp", "overdue")
    )
    bounds = Threshold(**fleet.hosts[host].thresholds["beat_tick_seconds"])
    warning, bad = (
        None if bound is None else fleet.beat_interval + bound
        for bound in (bounds.warning, bounds.bad)
    )
    for alert, expr, series, what in (
        (
            "CeleryBeatLate",
            f"time() - {tick}",
            lambda _, value: {_tick(fleet, host): at(-value, INTERVAL)},
            "has not looked at its schedule for {} s or more",
        ),
        (
            *("CeleryBeatOverdue", overdue),
            one(fleet.of("celery_fleet_beat_overdue_seconds", host=host)),
            "should have sent an entry {} s ago or more",
        ),
    ):
        yield from graded(
            Threshold(warning, bad),
            partial(_same, expr),
            series,
            alert=alert,
            hold=MINUTE,
            within=2 * MINUTE,
            summary=f"Beat on $host {what}.",
            section=_SECTION,
            found=lambda _: {"host": host},
        )
    missed = fleet.of("celery_fleet_beat_missed_total")
    rule = counted(
        fleet,
        "CeleryBeatMissed",
        "celery_fleet_beat_missed_total",
        0,
        host=host,
        found={"entry": "nightly", "reason": "failed"},
        summary="Beat on $host has not sent the entry $entry as it was due: $reason.",
        section=_SECTION,
    )
    # If its host was down for longer than the window, the last value before that is older.
    before = f"max_over_time({missed}[1d:5m] offset 15m)"
    yield replace(rule, expr=f"{rule.expr} or {missed} > {before}")


def _tick(fleet: MonitoredFleet, host: str) -> str:
    return fleet.of("celery_fleet_beat_tick_timestamp_seconds", host=host)


def _down(fleet: MonitoredFleet) -> Iterator[Rule]:
    ticks = {_tick(fleet, host): at(0, INTERVAL) for host in fleet.beats}
    if len(fleet.beats) == 1:
        host = fleet.beats[0]
        (tick,) = ticks
        condition, answers = while_up(fleet, host)
        yield Rule(
            "CeleryBeatDown",
            CRITICAL,
            f"absent({tick}) {condition}",
            MINUTE,
            2 * MINUTE,
            "Beat does not run on $host, so nothing scheduled is sent.",
            _SECTION,
            calm={**answers, **ticks},
            fires=({tick: None},),
            found={"host": host},
        )
        return
    any_tick = fleet.of("celery_fleet_beat_tick_timestamp_seconds")
    ups = [while_up(fleet, host)[1] for host in fleet.beats]
    hosts = f"host=~{any_of(fleet.beats)}"
    *others, last = ticks
    yield Rule(
        "CeleryBeatDown",
        CRITICAL,
        f"absent({any_tick}) and on () {fleet.of('up', hosts, exporter='fleet')} == 1",
        MINUTE,
        2 * MINUTE,
        "Beat does not run on any host, so nothing scheduled is sent.",
        _SECTION,
        calm={**ups[0], **dict.fromkeys(others), last: at(0, INTERVAL)},
        fires=({last: None},),
        found={},
    )
    for host, up in zip(fleet.beats, ups, strict=True):
        tick = _tick(fleet, host)
        yield Rule(
            "CeleryBeatStandbyDown",
            WARNING,
            f"absent({tick}) {while_up(fleet, host)[0]} and on () {any_tick}",
            MINUTE,
            2 * MINUTE,
            "Beat does not run on $host; that of another host sends.",
            _SECTION,
            calm={**up, **ticks},
            fires=({tick: None},),
            quiet=(dict.fromkeys(ticks),),
            found={"host": host},
            # Two rules of a file may not have the same name and labels.
            labels={"host": host},
        )


def _same(expr: str, _: str) -> str:
    return expr
