"""``celery-fleet health``: the result of this host's last health check."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from celery_fleet.cli import output, units
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import BAD, CommandError, need_root
from celery_fleet.cli.options import Context, command
from celery_fleet.common import systemctl
from celery_fleet.health import result as health_result

#: Seconds that a check and its command on a change may take: the unit's own limits, and some more.
NOW = 120.0


@command(
    examples=(
        "celery-fleet health",
        "sudo celery-fleet health --now",
        "celery-fleet health --format json | jq -r .state",
    ),
)
@click.option(
    "--now",
    is_flag=True,
    help="Check now, and wait for the result, at most two minutes. Needs root.",
)
def health(context: Context, now: bool) -> None:
    """Show this host's health: the result of the check that a timer runs, with its age.

    Status 0: good, or warnings; 1: bad; 3: there is no result, or it is older than two intervals.
    """
    application = context.application
    if now:
        check(application, context.bound(NOW))
    path = health_result.current_of(application.name)
    found = result_of(application, path)
    seconds = health_result.age(found)
    stale = health_result.stale(found, seconds)
    if context.json:
        output.as_json({**found, "age": round(seconds, 1), "stale": stale})
    else:
        show(found, seconds)
    if stale:
        raise CommandError(
            f"this result is older than {health_result.INTERVALS} intervals of {found['interval']:g} s:"
            f" systemctl status {timer_of(application)}"
        )
    raise click.exceptions.Exit(BAD if found["state"] == health_result.BAD else 0)


def timer_of(application: Application) -> str:
    """Return the name of the check's timer."""
    return f"{application.name}-health.timer"


def result_of(application: Application, path: Path) -> dict[str, Any]:
    """Return the last result.

    Raises:
        CommandError: There is none.
    """
    try:
        return health_result.read(path)
    except FileNotFoundError:
        raise CommandError(
            f"there is no result yet ({path} is missing): sudo celery-fleet --app {application.name} health --now,"
            " or run site.yml with celery_health_enabled"
        ) from None
    except PermissionError:
        raise need_root(f"read {path}") from None
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{path} can't be read ({error}); run the check again with --now"
        ) from None


def check(application: Application, seconds: float = NOW) -> None:
    """Run the check through its unit, and wait for its result.

    Raises:
        CommandError: It could not be run.
    """
    unit = f"{application.name}-health.service"
    if os.geteuid() != 0:
        raise need_root("run the check")
    if any(found.active == "missing" for found in units.show([unit])):
        raise CommandError(
            f"{unit} is not on this host; run site.yml with celery_health_enabled: true"
        )
    began = time.time()
    deadline = time.monotonic() + seconds
    # A check that the timer started earlier does not show the present state; then run it once more.
    for _ in range(2):
        said = start(unit, deadline - time.monotonic())
        last = health_result.before(health_result.current_of(application.name))
        if last and datetime.fromisoformat(last["checked"]).timestamp() >= began - 0.001:
            return
    raise CommandError(
        f"{unit} left no result ({said or 'it succeeded'}): journalctl -u {unit} -n 20"
    )


def start(unit: str, seconds: float) -> str:
    """Start a unit and wait for its end; return systemctl's output. The unit fails if the state is bad.

    Raises:
        CommandError: It takes too long, or systemd can't be asked.
    """
    try:
        done = subprocess.run(
            [systemctl.SYSTEMCTL, "start", unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"{unit} did not end in time, and still runs: systemctl status {unit}"
        ) from None
    except OSError as error:
        raise CommandError(f"systemd can't be asked: {error}") from None
    return " ".join(done.stderr.split())


def show(found: Mapping[str, Any], seconds: float) -> None:
    """Print the result as a table."""
    output.table(
        f"{found['app']} on {found['host']}: {found['state']}",
        ("check", "state", "result"),
        [
            (name, (one["state"], one["state"] == health_result.GOOD), one["text"])
            for name, one in found["checks"].items()
        ],
    )
    since = datetime.fromisoformat(str(found["since"]))
    output.say(
        f"Checked {seconds:.0f} s ago, in {found['seconds']:g} s; {found['state']} since"
        f" {since:%Y-%m-%d %H:%M:%S} UTC."
    )
