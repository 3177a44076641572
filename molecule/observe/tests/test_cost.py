"""What watching costs under load: the exporters' processor time, their commands to Redis, and the history's size."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus import Prometheus
from support.inventory import Fleet
from support.tasks import send, tracer

#: Seconds of load, and tasks that are sent in each.
LASTS, RATE = 120, 40

#: Queues of the inventory.
QUEUES = 24

COMMANDS = "sum(celery_fleet_collect_redis_commands_total)"
# None may have succeeded yet.
SUCCEEDED = "sum(celery_task_succeeded_total) or vector(0)"


def processor_seconds(fleet: Fleet, host: str) -> float:
    """Its own and those of the children that it has waited for. systemd does not count them in a container."""
    show = "systemctl show --property=MainPID --value flexiprice-exporter"
    words = (
        fleet.must(host, f"cat /proc/$({show})/stat; getconf CLK_TCK").rpartition(")")[2].split()
    )
    return sum(int(ticks) for ticks in words[11:15]) / int(words[-1])


def test_watching_costs_little(
    fleet: Fleet, prometheus: Prometheus, note: Callable[[str], None]
) -> None:
    def value(expression: str) -> float:
        (series,) = prometheus.query(expression)
        return float(series["value"][1])

    hosts = fleet.hosts("fleet")
    assert value("count(celery_queue_length)") == QUEUES
    before = {host: processor_seconds(fleet, host) for host in hosts}
    commands, tasks, began = value(COMMANDS), value(SUCCEEDED), time.monotonic()
    number = 0
    while time.monotonic() - began < LASTS:
        until = time.monotonic() + 10
        send(fleet, [tracer(f"cost-{number}-{one}", "discounts", 0) for one in range(10 * RATE)])
        number += 1
        time.sleep(max(0.0, until - time.monotonic()))
    seconds = time.monotonic() - began
    share = {
        host: (processor_seconds(fleet, host) - before[host]) / seconds for host in sorted(hosts)
    }
    rate = (value(SUCCEEDED) - tasks) / seconds
    asked = (value(COMMANDS) - commands) / seconds
    note(
        f"{rate:.0f} tasks/s, {QUEUES} queues: {asked:.1f} Redis commands/s; processor time of the exporters "
        + ", ".join(f"{host} {100 * used:.2f} %" for host, used in share.items())
    )
    assert rate > RATE / 2
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
