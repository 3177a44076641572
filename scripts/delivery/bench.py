"""Compare the cost of the atomic fetch with stock Celery's: `make bench-delivery`, or one part of it.

    throughput   no-op tasks and tasks of 1 kB, on 1, 8 and 24 queues, a worker with a pool of two
    workers      the same on one queue, with 1 to 32 workers of one process each
    latency      from sending to the start of the body, with idle workers, for any queue and priority
    redis        processor time of Redis for a single task, with 1 to 8 idle workers
    idle         commands per second of a worker that has nothing to do
    watching     processor time that the counts and the history of tasks take a worker, with any fetch

The stock and the atomic fetch run next to each other, each with its own Redis. They get their load alternately: full
load in slices of a second, and single tasks one by one. So other work on the machine affects both. The median of the
rounds' ratios is compared with the goal, and shown with its spread. Both sides have the same runtime and the same
settings (`at_least_once`: late acknowledgement), TLS, the roles' users and four priorities. They differ only in the
fetch and the parts that depend on it. `--quick` only shows that the program runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from . import load
from .bench_setup import BenchSetupError, Side, both_sides
from .figures import FigureRow, Goal, median, percentile, ratios, table
from .watching import watching

KILOBYTE = "x" * 1024
PREFORK = ("-P", "prefork", "-c", "2")
#: One process, so that many workers fit on the machine.
SOLO = ("-P", "solo")

FASTER = Goal(1.2, at_least=True)
SOONER = Goal(1.0)
SOON = Goal(10.0)
CHEAP = Goal(1.1)
QUIET = Goal(2.0)


@dataclass(frozen=True)
class Extent:
    """How much to measure: ``rounds`` of full load, ``single`` tasks one by one, ``idle`` seconds without load."""

    rounds: int
    queues: Sequence[int]
    workers: Sequence[int]
    beside: Sequence[int]
    single: int
    idle: float
    #: Messages in a slice; if None, as many as a slice needs.
    messages: int | None = None


FULL = Extent(15, (1, 8, 24), (1, 2, 4, 8, 16, 32), (1, 2, 4, 8), 300, 30)
QUICK = Extent(1, (2,), (1,), (1,), 5, 2, messages=20)


def names(number: int) -> list[str]:
    """Return the names of `number` queues."""
    return [f"queue{one}" for one in range(number)]


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def workers(
    sides: Sequence[Side], queues: Sequence[str], number: int, pool: Sequence[str]
) -> Iterator[None]:
    """Run `number` workers on each side, started one side after the other; stop them at the end."""
    add(sides, queues, number, pool)
    try:
        yield
    finally:
        for side in sides:
            side.stop()


def add(sides: Sequence[Side], queues: Sequence[str], number: int, pool: Sequence[str]) -> None:
    """Start workers until each side has `number` of them."""
    for side in sides:
        while len(side.workers) < number:
            side.start(queues, pool)
        side.wait()


# --- full load -------------------------------------------------------------------------------------


def in_turn(
    sides: Sequence[Side], queues: Sequence[str], templates: load.Templates, extent: Extent
) -> dict[str, list[load.Slice]]:
    """Measure slices of full load, round by round; the side that starts changes from round to round."""
    number = extent.messages or load.calibrated(sides, queues, templates)
    found: dict[str, list[load.Slice]] = {side.take: [] for side in sides}
    order = list(sides)
    for _ in range(extent.rounds):
        for side in order:
            found[side.take].append(load.full_load(side, queues, templates, number))
        order.reverse()
    return found


def row_of(what: str, found: Mapping[str, Sequence[load.Slice]]) -> FigureRow:
    """Return the throughput of both sides."""
    rates = {take: [one.rate for one in slices] for take, slices in found.items()}
    return FigureRow(
        what,
        median(rates["stock"]),
        median(rates["atomic"]),
        ratios(rates["atomic"], rates["stock"]),
        FASTER,
    )


def costs_of(what: str, found: Mapping[str, Sequence[load.Slice]]) -> list[FigureRow]:
    """Return the processor microseconds of a task, which depend less on other work of the machine."""
    rows = []
    for name, goal in (("redis", CHEAP), ("workers", None)):
        spent = {
            take: [getattr(one, name) / one.tasks * 1e6 for one in slices]
            for take, slices in found.items()
        }
        rows.append(
            FigureRow(
                f"{what}: processor time of {name.capitalize()} for a task",
                median(spent["stock"], " µs"),
                median(spent["atomic"], " µs"),
                # A worker's time is counted in ticks of 10 ms, so a short slice may have none.
                ratios([*spent["atomic"]], [max(one, 1.0) for one in spent["stock"]]),
                goal,
            )
        )
    return rows


def throughput(sides: Sequence[Side], extent: Extent) -> str:
    """Measure one worker with a pool of two."""
    rows = []
    for number in extent.queues:
        queues = names(number)
        # Create these before any worker can fetch them.
        kinds = {
            size: load.Templates(sides[0], queues, text)
            for size, text in (("no-op", ""), ("1 kB", KILOBYTE))
        }
        with workers(sides, queues, 1, PREFORK):
            for size, templates in kinds.items():
                what = f"{size}, {number} queues"
                say(what)
                found = in_turn(sides, queues, templates, extent)
                rows += [row_of(f"{what}: tasks a second", found), *costs_of(what, found)]
    return table(rows, "ratio")


def many_workers(sides: Sequence[Side], extent: Extent) -> str:
    """Measure more and more workers on one queue."""
    rows = []
    queues = names(1)
    templates = load.Templates(sides[0], queues, "")
    with workers(sides, queues, 1, SOLO):
        for number in extent.workers:
            what = f"{number} workers"
            say(what)
            add(sides, queues, number, SOLO)
            found = in_turn(sides, queues, templates, extent)
            rows += [row_of(f"{what}: tasks a second", found), *costs_of(what, found)]
    return table(rows, "ratio")


# --- one by one ------------------------------------------------------------------------------------


def latency(sides: Sequence[Side], extent: Extent) -> str:
    """Measure with idle workers."""
    rows = []
    for number in extent.queues:
        for count in sorted({extent.beside[0], min(4, extent.beside[-1])}):
            queues = names(number)
            what = f"{number} queues, {count} idle workers"
            say(what)
            with workers(sides, queues, count, PREFORK):
                load.latencies(sides, queues, 3)  # now the pool is awake and the connections exist
                found = load.latencies(sides, queues, extent.single)
            rows += latency_rows(what, found)
    return table(rows, "judged")


def latency_rows(what: str, found: Mapping[str, Sequence[float]]) -> list[FigureRow]:
    """Return the median compared with stock's, stretch by stretch, and the 99th percentile in milliseconds."""
    middle = {take: percentile(values, 50) * 1000 for take, values in found.items()}
    medians = {take: stretches(values) for take, values in found.items()}
    late = {take: percentile(values, 99) * 1000 for take, values in found.items()}
    return [
        FigureRow(
            f"{what}: p50",
            f"{middle['stock']:.1f} ms",
            f"{middle['atomic']:.1f} ms",
            ratios(medians["atomic"], medians["stock"]),
            SOONER,
        ),
        FigureRow(
            f"{what}: p99",
            f"{late['stock']:.1f} ms",
            f"{late['atomic']:.1f} ms",
            [late["atomic"]],
            SOON,
        ),
    ]


def stretches(values: Sequence[float]) -> list[float]:
    """Return the medians of ten stretches, which happened on both sides at the same time."""
    length = max(1, len(values) // 10)
    whole = len(values) // length * length
    return [percentile(values[at : at + length], 50) for at in range(0, whole, length)]


def redis(sides: Sequence[Side], extent: Extent) -> str:
    """Measure what a push costs Redis if it wakes every idle worker; this includes their waiting."""
    rows = []
    queues = names(1)
    templates = load.Templates(sides[0], queues, "")
    for number in extent.beside:
        say(f"{number} idle workers")
        with workers(sides, queues, number, SOLO):
            clients = {side.take: side.client() for side in sides}

            def send(side: Side, _: int, queue: str, priority: int) -> None:
                name = load.lists([queue])[load.PRIORITIES.index(priority)]
                clients[side.take].lpush(name, templates.one(name))  # noqa: B023 - only called within this turn

            spent: dict[str, list[float]] = {side.take: [] for side in sides}
            for _ in range(max(1, extent.rounds // 5)):
                before = {side.take: side.processor_seconds() for side in sides}
                load.one_by_one(sides, queues, extent.single // 2, send)
                for side in sides:
                    used = side.processor_seconds() - before[side.take]
                    spent[side.take].append(used / (extent.single // 2) * 1e6)
        rows.append(
            FigureRow(
                f"{number} idle workers: processor time of Redis for a task",
                median(spent["stock"], " µs"),
                median(spent["atomic"], " µs"),
                ratios(spent["atomic"], spent["stock"]),
                CHEAP,
            )
        )
    return table(rows, "ratio")


def idle(sides: Sequence[Side], extent: Extent) -> str:
    """Count commands without load, and separately those that scripts run inside Redis."""
    rows = []
    for number in extent.queues:
        queues = names(number)
        count = min(4, extent.beside[-1])
        say(f"{number} queues, {count} workers, idle")
        with workers(sides, queues, count, PREFORK):
            time.sleep(min(5, extent.idle))  # wait until the work after a start is done
            spent = {side.take: silence(side, extent.idle) for side in sides}
        sent = {take: found[0] / count for take, found in spent.items()}
        within = {take: found[1] / count for take, found in spent.items()}
        rows += [
            FigureRow(
                f"{number} queues: commands a second and worker",
                f"{sent['stock']:.2f}",
                f"{sent['atomic']:.2f}",
                [sent["atomic"]],
                QUIET,
            ),
            FigureRow(
                f"{number} queues: calls within scripts, a second and worker",
                f"{within['stock']:.2f}",
                f"{within['atomic']:.2f}",
                [within["atomic"]],
            ),
        ]
    return table(rows, "judged")


def silence(side: Side, seconds: float) -> tuple[float, float]:
    """Return commands per second of all workers of a side, and those that scripts call."""
    sent = within = 0
    with side.client().monitor() as monitor:
        end = time.monotonic() + seconds
        # Idle workers still send something each second, so this ends soon after its time.
        while time.monotonic() < end:
            if monitor.next_command()["client_type"] == "lua":
                within += 1
            else:
                sent += 1
    return sent / seconds, within / seconds


PARTS: Mapping[str, Callable[[Sequence[Side], Extent], str]] = {
    "throughput": throughput,
    "workers": many_workers,
    "latency": latency,
    "redis": redis,
    "idle": idle,
    "watching": lambda sides, extent: watching(sides[0], extent.rounds),
}


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, measure, and print the results."""
    parser = argparse.ArgumentParser(
        description="Compare the cost of the atomic fetch with stock Celery's."
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help=f"of full load; default: {FULL.rounds}")
    parser.add_argument("--queues", help="default: 1,8,24")
    parser.add_argument("--workers", help="default: 1,2,4,8,16,32")
    parser.add_argument("--quick", action="store_true", help="measure little; figures mean nothing")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    extent = extent_of(options)
    refused: list[str] = []
    for name in options.parts or PARTS:
        queues = max(extent.queues)
        with both_sides(names(queues)) as sides:
            text = PARTS[name](sides, extent)
            refused += [one for side in sides for one in side.refused()]
        load_average = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(
            f"### {name}\n\n{text}\n\nLoad of the machine at the end: {load_average}\n", flush=True
        )
    if refused:
        raise BenchSetupError(f"Redis refused commands: {', '.join(sorted(set(refused)))}")
    return 0


def extent_of(options: argparse.Namespace) -> Extent:
    """Return how much the command line asks to measure."""
    base = QUICK if options.quick else FULL

    def numbers(text: str | None, default: Sequence[int]) -> Sequence[int]:
        return tuple(sorted(map(int, text.split(",")))) if text else default

    return Extent(
        options.rounds or base.rounds,
        numbers(options.queues, base.queues),
        numbers(options.workers, base.workers),
        base.beside,
        base.single,
        base.idle,
        base.messages,
    )


def run(arguments: Sequence[str]) -> int | str:
    """Return the program's exit status: 0, or an error message."""
    try:
        return main(arguments)
    except BenchSetupError as error:
        return f"error: {error}"
