"""The alerts about workers, queues and tasks.

Thresholds are those of `celery_health_thresholds` and `celery_monitoring_thresholds`. Series have the labels of the
targets as well, so each has `app` and `host`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from .fleet import MonitoredFleet, any_of, grouped
from .rule import (
    CRITICAL,
    INTERVAL,
    MINUTE,
    WARNING,
    Rule,
    Series,
    at,
    graded,
    one,
    plain,
    while_up,
)

# Fewer tasks say nothing about a share of them.
FEWEST: Final = 10
_QUEUE: Final = {"queue": "$queue_name"}
# Seconds beyond its hard time limit after which a task has certainly ended.
_GRACE: Final = 60
# Seconds after which a pause may have been forgotten.
_FORGOTTEN: Final = 60 * MINUTE
_CANARY: Final[dict[str, Any]] = {
    "hold": 0,
    # Of which five are the health check's interval.
    "within": 6 * MINUTE,
    "section": "a-worker-does-not-consume",
}


def failed_and_ended(
    fleet: MonitoredFleet, labels: str, window: str, *matchers: str, first: bool = False
) -> tuple[str, str]:
    """Return how many tasks have failed in a window, and how many have ended, by some labels.

    A task that has never succeeded has no series for that, so the sum is over both names. With `first`, a series that
    begins in the window counts from zero; otherwise its first tasks are not seen. Its host must have been scraped
    before, because after a gap all series look new.
    """
    ended = '__name__=~"celery_task_failed_total|celery_task_succeeded_total"'
    scraped = f"({fleet.of('up', exporter='fleet')} offset {window} == 1)"

    def grown(selector: str) -> str:
        new = f"((({selector}) and on (host) {scraped}) unless {selector} offset {window}) or "
        return f"{new if first else ''}increase({selector}[{window}])"

    failed, both = (
        f"sum by ({labels}) ({grown(selector)})"
        for selector in (
            fleet.of("celery_task_failed_total", *matchers),
            fleet.of("", ended, *matchers),
        )
    )
    return failed, both


def rules(fleet: MonitoredFleet) -> Iterator[Rule]:
    """Yield the alerts about workers, queues and tasks."""
    for part in (_monitoring, _workers, _queues, _tasks):
        yield from part(fleet)


def _monitoring(fleet: MonitoredFleet) -> Iterator[Rule]:
    hosts = {name: fleet.of("up", exporter="fleet", host=name) for name in fleet.hosts}
    first = next(iter(hosts))
    yield Rule(
        "CeleryExporterDown",
        CRITICAL,
        f"{fleet.of('up', exporter='fleet')} == 0",
        MINUTE,
        1.5 * MINUTE,
        "The exporter on $host does not answer, so nothing is known of that host.",
        "monitoring-sees-nothing",
        calm={hosts[first]: at(1)},
        fires=({hosts[first]: at(0)},),
        found={"host": first, "exporter": "fleet"},
    )
    # A Redis that is down has its own alert.
    part = fleet.of("celery_fleet_collect_error", host=first, part="units")
    local = 'part!~"broker|results|cache|queues"'
    yield Rule(
        "CeleryExporterPartFails",
        WARNING,
        f"{fleet.of('celery_fleet_collect_error', local)} == 1",
        5 * MINUTE,
        6 * MINUTE,
        "The exporter on $host can't collect $part, so alerts about it are silent.",
        "monitoring-sees-nothing",
        calm={part: at(0)},
        fires=({part: at(1)},),
        found={"host": first, "part": "units"},
    )
    for name, series in hosts.items():
        yield Rule(
            "CeleryTargetMissing",
            CRITICAL,
            f"absent({series})",
            5 * MINUTE,
            6 * MINUTE,
            "Prometheus does not scrape $host, which is in the inventory.",
            "monitoring-sees-nothing",
            calm=dict.fromkeys(hosts.values(), at(1)),
            fires=({series: None},),
            found={"host": name, "exporter": "fleet"},
            labels={"host": name},
        )


def _workers(fleet: MonitoredFleet) -> Iterator[Rule]:
    for worker in fleet.workers:
        for host in worker.hosts:
            condition, answers = while_up(fleet, host)
            series = fleet.of("celery_worker_up", host=host, worker=worker.name)
            others = {
                fleet.of("celery_worker_up", host=host, worker=other.name): at(1)
                for other in fleet.workers
                if host in other.hosts
            }
            yield Rule(
                "CeleryWorkerDown",
                CRITICAL,
                f"max by (app, host, worker) ({series}) == 0 or (absent({series}) {condition})",
                MINUTE,
                2 * MINUTE,
                "The worker $worker on $host does not run.",
                "a-worker-does-not-consume",
                calm={**answers, **others},
                fires=({series: at(0)}, {series: None}),
                found={"host": host, "worker": worker.name},
                labels={"host": host, "worker": worker.name},
            )
    overrun = fleet.of("celery_fleet_task_overrun_seconds", host=fleet.collector, worker="mail")
    yield Rule(
        "CeleryHeldTooLong",
        WARNING,
        f"{fleet.of('celery_fleet_task_overrun_seconds')} > {_GRACE}",
        MINUTE,
        2 * MINUTE,
        f"The worker $worker on $host runs a task that exceeds its hard time limit by more than {_GRACE} s.",
        "tasks-seem-to-be-lost",
        calm={overrun: at(_GRACE)},
        fires=({overrun: at(_GRACE + 1)},),
        found={"host": fleet.collector, "worker": "mail"},
    )
    # `host` is the one that has checked it, `hostname` the worker's own.
    labels = {"host": fleet.collector, "hostname": "worker1", "worker": "mail"}
    answered, took = (
        fleet.of(f"celery_fleet_canary_{what}", **labels) for what in ("ok", "seconds")
    )
    yield Rule(
        "CeleryCanaryLost",
        WARNING,
        f"{fleet.of('celery_fleet_canary_ok')} == 0",
        summary="A test task does not come back from the worker $worker on $hostname.",
        calm={answered: at(1)},
        fires=({answered: at(0)},),
        found=labels,
        **_CANARY,
    )
    yield from graded(
        fleet.threshold("canary_seconds"),
        lambda _: fleet.of("celery_fleet_canary_seconds"),
        one(took),
        alert="CeleryCanarySlow",
        summary="A test task takes {} s or more through the worker $worker on $hostname.",
        found=lambda _: labels,
        **_CANARY,
    )


def _queues(fleet: MonitoredFleet) -> Iterator[Rule]:
    host = fleet.collector
    left_out = [*fleet.external, *fleet.uncounted]
    own = [queue for queue in fleet.queues if queue not in left_out]
    others = f"queue_name!~{any_of(left_out)}" if left_out else ""
    if own:
        length = fleet.of("celery_queue_length", host=host, queue_name=own[0])
        consumers = fleet.of("celery_active_worker_count", host=host, queue_name=own[0])
        hosts = {queue: _hosts_of(fleet, queue) for queue in own}
        answers = {name: fleet.of("up", exporter="fleet", host=name) for name in fleet.hosts}
        elsewhere = [series for name, series in answers.items() if name not in hosts[own[0]]]
        yield Rule(
            "CeleryQueueWithoutWorker",
            CRITICAL,
            f"{fleet.of('celery_queue_length', others)} > 0"
            f" unless on (queue_name) sum by (queue_name) ({fleet.of('celery_active_worker_count')}) > 0"
            f"{_unless_unknown(fleet, hosts)}",
            2 * MINUTE,
            3 * MINUTE,
            "No worker consumes the queue $queue_name, in which tasks wait.",
            "a-worker-does-not-consume",
            calm={length: at(1), consumers: at(1)},
            fires=(
                {consumers: None, **dict.fromkeys(elsewhere, at(0))},
                {consumers: at(0)},
            ),
            quiet=[{answers[name]: at(0)} for name in hosts[own[0]]],
            found={"host": host, "queue_name": own[0]},
            labels=_QUEUE,
        )
    for alert, metric, bounds, summary in (
        (
            *("CeleryQueueLong", "celery_queue_length", fleet.queue_lengths()),
            "{} tasks or more wait in the queue $queue_name.",
        ),
        (
            *("CeleryQueueOld", "celery_fleet_queue_oldest_seconds", fleet.queue_ages()),
            "The oldest task of the queue $queue_name has waited for {} s or more.",
        ),
    ):
        for rule in graded(
            bounds,
            partial(fleet.of, metric),
            partial(_queue, fleet, metric),
            label="queue_name",
            out_of=fleet.queues,
            found=lambda queue: {"host": host, "queue_name": queue},
            alert=alert,
            hold=2 * MINUTE,
            within=3 * MINUTE,
            summary=summary,
            section="a-queue-grows",
            labels=_QUEUE,
        ):
            yield _unless_paused(fleet, rule)
    for queue in fleet.queues[:1]:
        paused = fleet.of("celery_fleet_worker_paused")
        yield Rule(
            "CeleryPaused",
            WARNING,
            # A worker that starts has no series for some seconds, and the hour must not begin again then.
            f"max by (app, queue_name) (max_over_time({paused}[5m])) == 1",
            _FORGOTTEN,
            _FORGOTTEN + MINUTE,
            f"The queue $queue_name has been paused in a worker for {plain(_FORGOTTEN / MINUTE)} minutes.",
            "a-queue-grows",
            calm=_paused(fleet, queue, 0),
            fires=(_paused(fleet, queue),),
            found={"queue_name": queue},
            labels=_QUEUE,
        )
    # Without a queue there is no series for the length of one.
    for queue in fleet.queues[:1]:
        length = fleet.of("celery_queue_length", queue_name=queue)
        collected = fleet.of("celery_fleet_collected_timestamp_seconds", part="broker")
        yield Rule(
            "CeleryQueueUnknown",
            CRITICAL,
            f"absent({fleet.of('celery_queue_length')}) or max by (app) (time() - {collected}) > 180",
            3 * MINUTE,
            4 * MINUTE,
            "The lengths of the queues are unknown: the broker was not asked for three minutes.",
            "redis-is-down",
            calm={length: at(0), collected: at(-180, INTERVAL)},
            fires=({length: None}, {collected: at(-181, INTERVAL)}),
            found={},
        )


def _hosts_of(fleet: MonitoredFleet, queue: str) -> tuple[str, ...]:
    """Return the hosts with workers that consume a queue."""
    return tuple(
        dict.fromkeys(
            host
            for worker in fleet.workers
            for host, queues in worker.hosts.items()
            if queue in queues
        )
    )


def _unless_unknown(fleet: MonitoredFleet, hosts: Mapping[str, tuple[str, ...]]) -> str:
    """Return what silences a rule for queues while the exporter of a host with one of their workers does not answer.

    Whether they have a consumer is unknown then. Other queues are not affected, because a host may be down for days.
    """
    return "".join(
        f" unless on (queue_name) ({fleet.of('celery_queue_length', queues)}"
        f" and on () {fleet.of('up', f'host=~{any_of(names)}', exporter='fleet')} == 0)"
        for names, queues, _ in grouped("queue_name", hosts, fleet.queues)
        if names
    )


def _queue(fleet: MonitoredFleet, metric: str, queue: str, value: float) -> Series:
    return {fleet.of(metric, host=fleet.collector, queue_name=queue): at(value)}


def _unless_paused(fleet: MonitoredFleet, rule: Rule) -> Rule:
    """Return a rule about queues that is silent for a paused one: operators know that it grows.

    A queue does not count as paused as long as one of its workers serves it.
    """
    paused = f"min by (queue_name) ({fleet.of('celery_fleet_worker_paused')}) == 1"
    return replace(
        rule,
        expr=f"{rule.expr} unless on (queue_name) {paused}",
        quiet=(_paused(fleet, rule.found["queue_name"]),),
    )


def _paused(fleet: MonitoredFleet, queue: str, value: float = 1) -> Series:
    labels = {"host": fleet.collector, "worker": "mail", "queue_name": queue}
    return {fleet.of("celery_fleet_worker_paused", **labels): at(value)}


def _tasks(fleet: MonitoredFleet) -> Iterator[Rule]:
    labels = {"queue_name": "mail", "name": "app.pay"}
    failed, ended = failed_and_ended(fleet, "app, queue_name, name", "5m", first=True)
    wrong = fleet.of("celery_task_failed_total", **labels, exception="ValueError")
    right = fleet.of("celery_task_succeeded_total", **labels)
    yield from graded(
        fleet.threshold("tasks_failed_percent"),
        lambda _: f"{ended} >= {FEWEST} and 100 * {failed} / {ended}",
        # Of a hundred tasks with each scrape.
        lambda _, share: {wrong: at(0, share), right: at(0, 100 - share)},
        alert="CeleryTasksFailing",
        hold=2 * MINUTE,
        within=3 * MINUTE,
        summary="{} % or more of the tasks $name in the queue $queue_name have failed in the last five minutes.",
        section="tasks-fail",
        found=lambda _: labels,
        labels=_QUEUE,
    )
    lease = fleet.of("celery_fleet_lease_oldest_seconds", host=fleet.collector)
    late = fleet.visibility_timeout + 120
    yield Rule(
        "CeleryLeaseNotRenewed",
        WARNING,
        f"{fleet.of('celery_fleet_lease_oldest_seconds')} > {plain(late)}",
        MINUTE,
        2 * MINUTE,
        "A task that a worker held was neither renewed nor given to another worker.",
        "tasks-seem-to-be-lost",
        calm={lease: at(late)},
        fires=({lease: at(late + 1)},),
        found={"host": fleet.collector},
    )
    yield from graded(
        fleet.threshold("dead_letters"),
        lambda _: fleet.of("celery_fleet_dead_letters"),
        one(fleet.of("celery_fleet_dead_letters", host=fleet.collector)),
        alert="CeleryDeadLetters",
        hold=0.0,
        within=MINUTE / 2,
        summary="{} or more dead letters wait for a decision.",
        section="dead-letters",
        found=lambda _: {"host": fleet.collector},
        keep=10 * MINUTE,
    )
