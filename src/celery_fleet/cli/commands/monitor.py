"""``celery-fleet monitor``: show live what the workers do."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from celery_fleet.cli import ask, complete, output
from celery_fleet.cli.errors import UNKNOWN, USAGE, CommandError
from celery_fleet.cli.options import Context, Seconds, command
from celery_fleet.cli.stream import Stream
from celery_fleet.cli.watching import COUNTS, OutputFile, Sample, Summary, nodes

#: Seconds between two lines by default.
INTERVAL = 5.0

#: Number of failures in the live view.
SHOWN = 8


@command(
    examples=(
        "sudo celery-fleet monitor --duration 60 --interval 5",
        "sudo celery-fleet monitor --workers suppliers,marketplaces",
        "sudo celery-fleet monitor --output-file monitoring.json",
        "sudo celery-fleet --format json monitor | jq -c '.rates'",
    ),
)
@click.option(
    "--duration",
    type=Seconds(0, 1_000_000, min_open=True),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to watch.",
)
@click.option(
    "--interval",
    type=Seconds(0.5),
    metavar="SECONDS",
    help=f"Time between two lines; {INTERVAL:g} by default.",
)
@click.option(
    "--output-file",
    "file",
    metavar="FILE",
    type=click.Path(),
    help="Write everything to FILE at the end, as JSON.",
)
@click.option(
    "--workers",
    metavar="NAMES",
    shell_complete=complete.workers,
    help="Only these workers: names or node names, separated by commas.",
)
def monitor(
    context: Context, duration: float, interval: float | None, file: str | None, workers: str | None
) -> None:
    """Show what the workers do: tasks per second, mean runtime, failures, workers, lengths of queues.

    It counts Celery's events. Workers without `task_events` send none for their tasks; they are listed, and only the
    number of tasks that they have started is known. Ctrl-C ends it with the totals.

    Status 3: the broker was away at the start, for more than 10 s, or at the end. With --format json each line is a
    document, the last one with `summary`.
    """
    if interval is not None and interval > duration:
        raise CommandError(
            f"--interval {interval:g}: is longer than --duration {duration:g}, so there would be nothing to show",
            USAGE,
        )
    application = context.application
    wanted = nodes(application, workers)
    every = interval or min(INTERVAL, duration)
    request = {
        "settings": application.carried_settings(),
        "duration": duration,
        "interval": every,
        "nodes": wanted,
        "expected": list(application.workers),
        "queues": list(application.queues),
    }
    summary = Summary()
    with ExitStack() as stack:
        stack.enter_context(ended_as_by_ctrl_c())
        target = stack.enter_context(closing(OutputFile(file))) if file else None
        stream = stack.enter_context(Stream(application, "celery_fleet.ops.monitoring", request))
        with view(context, duration) as show:
            first = context.left() - ask.MARGIN
            trouble = watch(stream, summary, show, first, every, context.bound())
        finish(context, summary, duration)
        if target is not None and summary.samples:
            target.write(document(context, summary))
    if trouble:
        raise CommandError(trouble, UNKNOWN)


def watch(
    stream: Stream,
    summary: Summary,
    show: Callable[[Summary], None],
    first: float,
    every: float,
    patience: float,
) -> str | None:
    """Show the lines of a stream until it ends; return the reason if it ended early or in an outage.

    Args:
        stream: The lines.
        summary: Collects them.
        show: Called with the summary after each line.
        first: Seconds within which the first line must come.
        every: Seconds between two lines.
        patience: Seconds for which the broker may be away, and a line late.
    """

    def take(line: dict[str, Any]) -> None:
        if "error" in line:
            raise CommandError(str(line["error"]))
        summary.add(Sample.of(line))
        show(summary)

    try:
        for line in stream.lines(every + patience, first):
            take(line)
            trouble = summary.trouble
            if trouble and (len(summary.samples) == 1 or summary.troubled >= patience):
                stream.abandon()
                return f"the broker does not answer: {trouble}"
    except KeyboardInterrupt:
        for line in stream.stop():
            take(line)
    except CommandError as error:
        stream.abandon()
        if not summary.samples:
            raise
        return error.message
    if not summary.samples:
        return "no data about the workers; see `celery-fleet status`"
    return f"the broker does not answer: {summary.trouble}" if summary.trouble else None


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP, from `timeout` or a lost terminal, like Ctrl-C: write the totals and the file."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def view(context: Context, duration: float) -> Iterator[Callable[[Summary], None]]:
    """Yield a function that shows each sample: as JSON, as lines, or on a terminal as a live view."""
    if context.json:
        yield lambda summary: output.say(json.dumps(summary.samples[-1].as_dict()))
    elif not sys.stdout.isatty():
        yield lambda summary: _print_lines(summary.samples[-1])
    else:
        with Live(console=output.console(), auto_refresh=False, transient=True) as live:
            yield lambda summary: live.update(picture(summary, duration), refresh=True)


def finish(context: Context, summary: Summary, duration: float) -> None:
    """Print the totals."""
    if context.json:
        output.say(json.dumps({"summary": summary.as_dict()}))
    elif summary.samples:
        output.console().print(picture(summary, duration))


def document(context: Context, summary: Summary) -> str:
    """Return the content of the output file."""
    application = context.application
    return (
        json.dumps(
            {
                "app": application.name,
                "host": application.host,
                "summary": summary.as_dict(),
                "samples": [sample.as_dict() for sample in summary.samples],
            },
            indent=2,
            default=str,
        )
        + "\n"
    )


def picture(summary: Summary, duration: float) -> Group:
    """Return the whole state as tables."""
    sample = summary.samples[-1]
    parts: list[Any] = [
        output.text(
            f"{sample.at:%Y-%m-%d %H:%M:%S} UTC, {sample.elapsed:.0f} of {duration:.0f} s",
            style="bold",
        ),
        _rates(summary),
        output.text(
            f"Mean runtime: {_seconds(sample.mean)} now, {_seconds(summary.mean)} in total"
        ),
        _workers(sample),
    ]
    if sample.by_totals:
        parts.append(
            output.text(
                f"Without task events, so only started tasks are counted: {', '.join(sample.by_totals)}"
            )
        )
    queues = ", ".join(f"{name} {waiting}" for name, waiting in sample.queues.items())
    parts.append(output.text(f"Queues: {queues or '-'}"))
    parts += [output.text(_failure(one), style="red") for one in summary.failures[-SHOWN:]]
    if sample.trouble:
        parts.append(output.text(f"The broker does not answer: {sample.trouble}", style="bold red"))
    return Group(*parts, Text(""))


def _rates(summary: Summary) -> Table:
    sample = summary.samples[-1]
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("tasks")
    for name in COUNTS:
        made.add_column(name, justify="right")
    made.add_row("per second, now", *(f"{sample.rates[name]:.1f}" for name in COUNTS))
    made.add_row("per second, on average", *(f"{summary.rates[name]:.1f}" for name in COUNTS))
    made.add_row("in total", *(str(summary.counts[name]) for name in COUNTS))
    return made


def _workers(sample: Sample) -> Text:
    text = f"Workers: {len(sample.online)} of {len(sample.workers)} online"
    if sample.offline:
        return output.text(f"{text}; no answer from {', '.join(sample.offline)}", style="bold red")
    return output.text(text)


def _print_lines(sample: Sample) -> None:
    rates = ", ".join(f"{name} {sample.rates[name]:.1f}/s" for name in COUNTS)
    queues = ", ".join(f"{name} {waiting}" for name, waiting in sample.queues.items())
    output.say(
        f"{sample.at:%H:%M:%S} {rates}; mean {_seconds(sample.mean)};"
        f" {len(sample.online)}/{len(sample.workers)} workers; {queues}"
    )
    for one in sample.failures:
        output.say(f"{sample.at:%H:%M:%S} {_failure(one)}")
    if sample.trouble:
        output.say(f"{sample.at:%H:%M:%S} the broker does not answer: {sample.trouble}")


def _failure(one: Any) -> str:
    return (
        f"failed: {one['task'] or 'an earlier task'} {one['id']} on {one['worker']}: {one['error']}"
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
