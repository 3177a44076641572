"""Start and ask Celery in development, as `python scripts/celery_manager.py <verb> [option …]`.

Each verb stands for one `celery` command; further options are handed on to it. On a host of the fleet
the verbs that ask work in the same way, by `celery-fleet exec --as operator -- python scripts/…`; those
that start something name the service that takes their place.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

BACKEND = Path(__file__).resolve().parent.parent

VERBS = {
    "worker": ("start a worker for all queues", ["worker", "--loglevel=info", "--concurrency=2"]),
    "beat": ("start the scheduler", ["beat", "--loglevel=info"]),
    "flower": ("start the monitoring UI on loopback", ["flower", "--address=127.0.0.1"]),
    "active": ("list the tasks that run now", ["inspect", "active"]),
    "scheduled": ("list the tasks with a countdown that workers hold", ["inspect", "scheduled"]),
    "purge": ("delete all waiting tasks, after a question", ["purge"]),
}

# Set in every process that Celery Fleet starts, and nowhere else.
ON_A_FLEET_HOST = "CELERY_FLEET_COMPONENT"
# The application's name in the delivered inventories begins the units' names.
SERVICES = {
    "worker": "systemctl status 'flexiprice-worker@*'; options and log level are the inventory's,"
    " celery_worker_instances",
    "beat": "systemctl status flexiprice-beat; the schedule is the inventory's, celery_beat_schedule",
    "flower": "systemctl status flexiprice-flower, on the inventory's host of flower; it answers"
    " behind nginx, at flower_port",
}


def celery_command(verb: str, options: Sequence[str]) -> list[str]:
    """The command that stands for `verb`, with the Python that runs this script."""
    _, arguments = VERBS[verb]
    return [sys.executable, "-m", "celery", "-A", "app.celery_app", *arguments, *options]


def main() -> None:
    """Read the verb, and become its command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb, (help_text, _) in VERBS.items():
        verbs.add_parser(verb, help=help_text, add_help=False)
    chosen, options = parser.parse_known_args()
    if chosen.verb in SERVICES and os.environ.get(ON_A_FLEET_HOST):
        parser.error(f"on this host the {chosen.verb} is a service: {SERVICES[chosen.verb]}")
    if chosen.verb == "flower" and importlib.util.find_spec("flower") is None:
        parser.error("Flower is not installed in this virtualenv: pip install flower")
    os.chdir(BACKEND)
    command = celery_command(chosen.verb, options)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted, and the program is this Python


if __name__ == "__main__":
    main()
