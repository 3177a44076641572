"""What watching costs under load: the exporters' processor time, their commands to Redis, and the history's size."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from prometheus import Prometheus
from support.inventory import Fleet
from support.tasks import Task, send
from support.waiting import wait_for

#: Seconds of load, and tasks that are sent in each.
LASTS, RATE = 120, 100

#: Queues of the inventory.
QUEUES = 24

#: A task of Celery's own, which does nothing: what is measured is the watching.
NOTHING = Task("celery.accumulate", "discounts")

COMMANDS = "sum(celery_fleet_collect_redis_commands_total)"
# None may have succeeded yet.
SUCCEEDED = "sum(celery_task_succeeded_total) or vector(0)"


def processor_seconds(fleet: Fleet, host: str) -> float:
    """Return a process's seconds, with those of ended children; systemd does not count them in a container."""
    show = "systemctl show --property=MainPID --value flexiprice-exporter"
    words = (
        fleet.must(host, f"cat /proc/$({show})/stat; getconf CLK_TCK").rpartition(")")[2].split()
    )
    return sum(int(ticks) for ticks in words[11:15]) / int(words[-1])


def history_writes(fleet: Fleet) -> tuple[float, float]:
    """Return how often Redis has written to the history, and the seconds that this took in all."""
    command = ["celery-fleet", "redis", "results", "--", "info", "commandstats"]
    found = re.search(r"cmdstat_xadd:calls=(\d+),usec=(\d+)", fleet.must("redis1", command))
    return (float(found[1]), float(found[2]) / 1e6) if found else (0.0, 0.0)


def test_watching_costs_little(
    fleet: Fleet, prometheus: Prometheus, note: Callable[[str], None]
) -> None:
    def value(expression: str) -> float:
        (series,) = prometheus.query(expression)
        return float(series["value"][1])

    hosts = fleet.hosts("fleet")
    assert value("count(celery_queue_length)") == QUEUES
    before = {host: processor_seconds(fleet, host) for host in hosts}
    writes = history_writes(fleet)
    commands, tasks, began, sent = value(COMMANDS), value(SUCCEEDED), time.monotonic(), 0
    while time.monotonic() - began < LASTS:
        until = time.monotonic() + 10
        sent += len(send(fleet, [NOTHING] * (10 * RATE)))
        time.sleep(max(0.0, until - time.monotonic()))
    seconds = time.monotonic() - began
    share = {
        host: (processor_seconds(fleet, host) - before[host]) / seconds for host in sorted(hosts)
    }
    asked = (value(COMMANDS) - commands) / seconds
    number, spent = (
        after - earlier for after, earlier in zip(history_writes(fleet), writes, strict=True)
    )
    wait_for("all tasks are counted", 60, lambda: value(SUCCEEDED) >= tasks + sent, pause=2)
    rate = sent / (time.monotonic() - began)
    note(
        f"the history: {number / seconds:.1f} writes/s, {100 * spent / seconds:.3f} % of a processor in Redis"
    )
    note(
        f"{rate:.0f} tasks/s, {QUEUES} queues: {asked:.1f} Redis commands/s; processor time of the exporters "
        + ", ".join(f"{host} {100 * used:.2f} %" for host, used in share.items())
    )
    # They are counted some seconds later, and a busy machine sends a little less.
    assert rate > 0.8 * RATE
    assert asked <= 5
    assert max(share.values()) <= 0.01


def test_the_history_is_as_small_as_the_page_says(
    fleet: Fleet, prometheus: Prometheus, note: Callable[[str], None]
) -> None:
    """After the load above: `celery_app_history_mb` promises that a megabyte has room for 10,000 tasks."""
    (series,) = prometheus.query(SUCCEEDED)
    tasks = float(series["value"][1])
    shown = fleet.must(
        "redis1", ["celery-fleet", "redis", "results", "--", "memory", "usage", "fleet:history"]
    )
    size = int(shown.split()[-1])
    note(
        f"{tasks:.0f} tasks take {size / 1e6:.2f} MB in the history: {1e6 * tasks / size:.0f} in a megabyte"
    )
    assert tasks / size > 10_000 / 1e6
