"""``celery-fleet status``: this host's units, the workers of the fleet, and the queues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from celery_fleet.cli import ask, backups, output, releases, slo, units
from celery_fleet.cli.application import Application
from celery_fleet.cli.commands import pauses, scale
from celery_fleet.cli.errors import BAD, UNKNOWN, CommandError
from celery_fleet.cli.options import Context, command
from celery_fleet.common.small_file import DAMAGED, LARGEST_OF_BEAT, content
from celery_fleet.common.text import tasks_wait


@dataclass
class StatusReport:
    """Everything that `status` shows.

    Attributes:
        unknown: Why workers and queues could not be asked; None if they were.
        note: Why they were not asked, if there is nothing wrong with that.
        dead_letters: How many there are; None if unknown.
        slos: How workers have kept their SLOs.
        pauses: What operators have paused.
        hold: The release that the fleet holds, if it holds one.
        pool_sizes: The workers that operators have scaled.
        backup: The last backup of Redis, if this host makes them.
    """

    units: list[units.UnitStatus]
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    queues: dict[str, dict[str, Any]] = field(default_factory=dict)
    due: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    unknown: str | None = None
    note: str | None = None
    dead_letters: int | None = None
    slos: list[slo.Kept] = field(default_factory=list)
    pauses: list[Mapping[str, Any]] = field(default_factory=list)
    hold: Mapping[str, Any] | None = None
    pool_sizes: list[Mapping[str, Any]] = field(default_factory=list)
    backup: backups.BackupStatus | None = None

    @property
    def status(self) -> int:
        """Return the exit status."""
        if self.unknown:
            return UNKNOWN
        return BAD if self.problems else 0

    def as_dict(self, application: Application) -> dict[str, Any]:
        """Return its form in JSON."""
        return {
            "app": application.name,
            "host": application.host,
            "ok": self.status == 0,
            "problems": self.problems,
            "unknown": self.unknown,
            "note": self.note,
            "units": [unit.as_dict() for unit in self.units],
            "workers": self.workers,
            "queues": self.queues,
            "dead_letters": self.dead_letters,
            "slos": [one.as_dict() for one in self.slos],
            "pauses": self.pauses,
            "hold": self.hold,
            "pool_sizes": self.pool_sizes,
            "backup": self.backup.as_dict() if self.backup else None,
            "due": self.due,
        }


def has_release(application: Application) -> bool:
    """Return whether this host runs the application, so that it can ask the workers."""
    groups = {"celery_workers", "celery_beat", "celery_producers"}
    return bool(groups.intersection(application.hosts.get(application.host, ())))


def full_report(context: Context, detailed: bool = False) -> StatusReport:
    """Find out everything, within the command's time limit."""
    application = context.application
    found = StatusReport(units.show(application.units))
    found.problems += [
        f"{unit.name} is {unit.active}" + (f" ({unit.status})" if unit.status else "")
        for unit in found.units
        # A process that waits for its broker or database, or is stuck, still runs.
        if not unit.ok or unit.status.startswith(("waiting for ", "stuck: "))
    ]
    found.due = next_due(application)
    try:
        found.hold = releases.record(application.name).get("hold")
    except CommandError as error:
        found.problems.append(error.message)
    found.backup = backups.last_backup(application)
    if found.backup and found.backup.problem:
        found.problems.append(found.backup.problem)
    if not has_release(application):
        others = sorted(
            {node.partition("@")[2] for node in application.workers} or {"a host of workers"}
        )
        found.note = f"workers and queues are asked from a host with a release, such as {others[0]}"
        return found
    try:
        broker = application.redis["broker"]
        with context.within(f"the workers, by way of the broker {broker.address}"):
            answer = ask.question(
                application,
                "workers",
                expected=list(application.workers),
                queues=list(application.queues),
                dead_letters=True,
                detailed=detailed,
            )
    except CommandError as error:
        found.unknown = error.message
        return found
    compare(found, application, answer)
    return found


def compare(found: StatusReport, application: Application, answer: Mapping[str, Any]) -> None:
    """Compare the workers' answers with the inventory."""
    found.dead_letters = answer.get("dead_letters")
    found.pauses = answer.get("pauses") or []
    found.pool_sizes = answer.get("pool_sizes") or []
    if answer.get("full"):
        found.problems.append(answer["full"])
        found.queues = {
            queue: {"waiting": waiting, "consumers": None}
            for queue, waiting in answer["queues"].items()
        }
        return
    seen: Mapping[str, Mapping[str, Any]] = answer["workers"]
    for node, queues in application.workers.items():
        if node not in seen:
            found.workers[node] = {"state": "no answer", "queues": list(queues), "ok": False}
            found.problems.append(f"worker {node} does not answer")
            continue
        missing = sorted(set(queues) - set(seen[node]["queues"]))
        # A worker that drains is about to be replaced, and a pause ends by itself.
        well = not missing or seen[node]["state"] != "consuming"
        found.workers[node] = {**seen[node], "ok": well}
        if not well:
            found.problems.append(f"worker {node} does not consume {', '.join(missing)}")
    for node in seen:
        # For example the second instance of a worker that restarts.
        if node not in application.workers:
            found.workers[node] = {**seen[node], "ok": True}
    found.slos = list(slo.kept(application.slos, seen))
    found.problems += [
        f"worker {one.worker} breaks its SLO ({one.words}): {one.text}"
        for one in found.slos
        if not one.well
    ]
    for queue, waiting in answer["queues"].items():
        if queue in application.external:
            # It is not known whether something consumes it.
            found.queues[queue] = {"waiting": waiting, "consumers": None}
            continue
        consumers = [node for node, worker in seen.items() if queue in worker["queues"]]
        found.queues[queue] = {"waiting": waiting, "consumers": len(consumers)}
        if not consumers:
            found.problems.append(f"no worker consumes queue {queue}, where {tasks_wait(waiting)}")


def next_due(application: Application) -> dict[str, Any] | None:
    """Return the entry that the running beat sends next; None without such a beat, or if this user may not read it."""
    try:
        document = json.loads(content(application.schedule, LARGEST_OF_BEAT))
        # A beat that stands by does not know what the one that sends has sent.
        entries = [] if document.get("stands_by") else document["entries"]
        first = min(entries, key=lambda entry: str(entry["due"]))
        return {name: first[name] for name in ("name", "task", "queue", "due")}
    except (OSError, *DAMAGED):
        return None


@command(
    examples=(
        "sudo celery-fleet status",
        "sudo celery-fleet status --detailed",
        "sudo celery-fleet status --format json | jq .problems",
    ),
)
@click.option("--detailed", is_flag=True, help="Also show each worker's counts and running tasks.")
def status(context: Context, detailed: bool) -> None:
    """Show this host's units and, if the broker answers, all workers, queues and what is due next.

    Workers and queues need root. Answers within 10 s. Status 0: all is well; 1: something is not; 3: the broker could
    not be asked.
    """
    found = full_report(context, detailed)
    if context.json:
        output.as_json(found.as_dict(context.application))
    else:
        show(found, context.application)
    if found.unknown:
        raise CommandError(found.unknown)
    raise click.exceptions.Exit(found.status)


def _consumers(number: int | None) -> tuple[int, bool] | None:
    return None if number is None else (number, number > 0)


def show(found: StatusReport, application: Application) -> None:
    """Print the tables."""
    output.table(
        f"{application.name} on {application.host}",
        ("unit", "state", "since", "restarts", "status"),
        [
            (
                unit.name.removesuffix(".service"),
                (f"{unit.active} ({unit.sub})" if unit.sub else unit.active, unit.ok),
                output.ago(unit.since),
                unit.restarts,
                unit.status,
            )
            for unit in found.units
        ],
        right=("restarts",),
    )
    if found.workers:
        output.table(
            "Workers of the fleet",
            ("worker", "state", "queues", "processes", "running"),
            [
                (
                    node,
                    (worker["state"], worker["ok"]),
                    ", ".join(worker["queues"]),
                    worker.get("processes"),
                    worker.get("running"),
                )
                for node, worker in sorted(found.workers.items())
            ],
            right=("processes", "running"),
        )
    if any("begun" in worker for worker in found.workers.values()):
        show_details(found)
    if found.queues:
        output.table(
            "Queues",
            ("queue", "waiting", "consumers"),
            [
                (queue, one["waiting"], _consumers(one["consumers"]))
                for queue, one in found.queues.items()
            ],
            right=("waiting", "consumers"),
        )
    if found.slos:
        output.table(
            "SLOs, in the last hour",
            ("worker", "SLO", "kept", "tasks"),
            [
                (one.worker, one.words, ("yes" if one.well else "no", one.well), one.text)
                for one in found.slos
            ],
        )
    pauses.show(found.pauses)
    releases.say_hold(found.hold)
    scale.show(found.pool_sizes)
    backups.show(found.backup)
    if found.dead_letters:
        output.say(
            f"Dead letters: {found.dead_letters}; to see them: celery-fleet dead-letters list\n"
        )
    if found.due:
        output.say(f"Next due: {found.due['name']} at {found.due['due']}\n")
    for instance in application.redis.values():
        if not instance.unit:
            output.say(
                "; ".join(
                    [
                        f"The fleet does not run its {instance.kind}, {instance.host}:{instance.port}",
                        *instance.limits,
                    ]
                )
                + "."
            )
    if found.note:
        output.say(f"Note: {found.note}.")
    for problem in found.problems:
        output.say(f"Problem: {problem}")
    if not found.problems and not found.unknown:
        output.say("The units of this host are well." if found.note else "All is well.")


def show_details(found: StatusReport) -> None:
    """Print the workers' counts and running tasks."""
    told = {node: worker for node, worker in sorted(found.workers.items()) if "begun" in worker}
    now = datetime.now(UTC)

    def since(seconds: Any) -> str:
        known = isinstance(seconds, (int, float))
        return output.ago(datetime.fromtimestamp(seconds, UTC), now) if known else "-"

    output.table(
        "Since the workers' start",
        ("worker", "pid", "up", "tasks started", "prefetch", "largest MiB", "task events"),
        [
            (
                node,
                worker["pid"],
                output.ago(now - timedelta(seconds=worker["uptime"] or 0), now),
                worker["begun"],
                worker["prefetch"],
                worker["memory"] and worker["memory"] // 1024,
                {True: "sent", False: "not sent"}.get(worker["task_events"]),
            )
            for node, worker in told.items()
        ],
        right=("pid", "tasks started", "prefetch", "largest MiB"),
    )
    running = [
        (node, task["name"], task["id"], since(task["time_start"]))
        for node, worker in told.items()
        for task in worker["tasks"]
    ]
    if running:
        output.table("Running", ("worker", "task", "id", "for"), running)
