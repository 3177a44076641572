"""``celery-fleet start``, ``stop`` and ``restart``: this host's services of an application."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from celery_fleet.cli import complete, output, services
from celery_fleet.cli.errors import BAD, CommandError, need_root
from celery_fleet.cli.options import Context, command

#: The commands' help.
_HELP = {
    "start": "Start workers, beat, flower or web of this host; all of them if no NAME is given.",
    "stop": """Stop workers, beat, flower or web of this host; all of them if no NAME is given.

    A worker fetches no more tasks, hands back those that it has not started, and waits for running ones. The next
    site.yml starts it again, and so does a reboot; to keep it away, remove it from the inventory.""",
    "restart": """Restart workers, beat, flower or web of this host; all of them if no NAME is given.

    A worker stops as with `stop`, and meanwhile no worker here consumes its queues. The playbook
    celery_fleet.core.restart_workers restarts a fleet without such a gap.""",
}


def act(context: Context, verb: str, names: Sequence[str], wait: bool) -> None:
    """Have systemd start, stop or restart units, and watch.

    Raises:
        CommandError: systemd refused, or the units did not get there.
    """
    application = context.application
    wanted = services.meant(application, names)
    if os.geteuid() != 0:
        raise need_root(f"{verb} services")
    with context.within(verb):
        jobs = services.UnitJobs(verb, wanted)
        jobs.go()
    say: Callable[..., None] = output.say
    last: dict[str, services.UnitChange] = {}
    if wait:
        if not context.json:
            say(
                f"{_names(jobs.names)}: {verb}, {_bound(jobs)}; Ctrl-C only ends the watching",
                err=True,
            )
        try:
            for step in jobs.steps(jobs.patience):
                last[step.unit.name] = step
                if not context.json:
                    say(step.text)
        except KeyboardInterrupt:
            raise CommandError(f"stopped watching; systemd continues with {verb}", BAD) from None
    if context.json:
        output.as_json(_as_dict(application.name, verb, wanted, last))
    elif not wait:
        say(f"{_names(wanted)}: {verb} has begun")
    if verb == "stop":
        say(
            "celery-fleet: the next site.yml starts it again, and so does a reboot",
            err=True,
        )
    _judge(verb, last, jobs)


def _as_dict(
    app: str, verb: str, wanted: Sequence[str], last: dict[str, services.UnitChange]
) -> dict[str, Any]:
    found = {
        name: {**step.unit.as_dict(), "done": step.done, "ok": step.done and step.well}
        for name, step in last.items()
    }
    return {"app": app, "verb": verb, "units": found or dict.fromkeys(wanted)}


def _names(wanted: Sequence[str]) -> str:
    return ", ".join(name.removesuffix(".service") for name in wanted)


def _bound(jobs: services.UnitJobs) -> str:
    text = services.seconds_text(jobs.patience)
    if jobs.longest is None:
        return f"watched for {text}; a worker's start lasts until its broker answers"
    return f"{text} at most"


def _judge(verb: str, last: dict[str, services.UnitChange], jobs: services.UnitJobs) -> None:
    bad = [step for step in last.values() if step.done and not step.well]
    if bad:
        raise CommandError(
            f"not {services.VERBS[verb]}: {'; '.join(step.text for step in bad)}; see"
            f" journalctl -u {bad[0].unit.name} -n 50",
            BAD,
        )
    late = [step for step in last.values() if not step.done]
    if late:
        raise CommandError(
            f"not {services.VERBS[verb]} within {services.seconds_text(jobs.patience)}:"
            f" {'; '.join(step.text for step in late)}; systemd continues",
            BAD,
        )


def _verb(verb: str) -> click.Command:
    @click.argument(
        "names", nargs=-1, metavar="[NAME]...", shell_complete=complete.listed(services.offered)
    )
    @click.option(
        "--no-wait",
        "wait",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Return at once, without watching.",
    )
    def done(context: Context, names: tuple[str, ...], wait: bool) -> None:
        act(context, verb, names, wait)

    done.__doc__ = _HELP[verb]
    examples = (
        f"sudo celery-fleet {verb}",
        f"sudo celery-fleet {verb} discounts beat",
        f"sudo celery-fleet {verb} discounts --no-wait",
    )
    decorate: Callable[[Any], click.Command] = command(name=verb, examples=examples)
    return decorate(done)


VERBS = tuple(_verb(verb) for verb in services.VERBS)
