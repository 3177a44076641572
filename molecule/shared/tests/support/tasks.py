"""Send tasks as the application does: from its host, with the producer's credentials; wait while beat sends them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from support.inventory import Fleet
from support.waiting import wait_for

_SEND = """
import json, sys
from app.celery_app import celery_app
for task in json.load(sys.stdin):
    options = {"queue": task["queue"], "countdown": task["delay"] or None}
    print(celery_app.send_task(task["name"], kwargs=task["arguments"], **options).id)
"""


@dataclass(frozen=True)
class Task:
    """A task call, due after so many seconds."""

    name: str
    queue: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0


def tracer(run_id: str, queue: str, seconds: float) -> Task:
    """Return a task that takes a while and records its start and its end."""
    return Task("app.tasks.record_run", queue, {"run_id": run_id, "seconds": seconds})


def run_in_release(
    fleet: Fleet, name: str, pin: str, component: str, script: str, stdin: str = ""
) -> str:
    """Run a script on a host in a unit's release, as a process of the fleet; return its output."""
    variables = fleet.expected[name]
    release = f"{variables['celery_app_root']}/pins/{pin}"
    environment = {
        "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
        "CELERY_FLEET_COMPONENT": component,
        "CELERY_FLEET_SETTINGS": f"{variables['celery_app_config_directory']}/credentials/{component}.json",
        # The script may need the application; Flower's release has none.
        "PYTHONPATH": f"{variables['celery_app_runtime']}:{release}/source",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = [f"{key}={value}" for key, value in environment.items()]
    command = ["env", "--chdir=/", *words, f"{release}/venv/bin/python", "-c", script]
    return fleet.must(name, command, stdin)


def send(fleet: Fleet, tasks: Sequence[Task]) -> list[str]:
    """Send tasks to their queues, from the producer's host and with its rights; return their ids."""
    payload = json.dumps([asdict(task) for task in tasks])
    return run_in_release(
        fleet, fleet.one("celery_producers"), "web", "producer", _SEND, payload
    ).split()


def wait_until_none_is_due(fleet: Fleet, *beginnings: str, minutes: int = 1) -> None:
    """Wait until beat sends no task whose name begins like this for some minutes.

    It would change the same rows, or be in the same queue.
    """
    path = f"/run/{fleet.of('celery_beat')['celery_app_name']}-beat/schedule.json"

    def look() -> bool:
        entries = json.loads(fleet.must(fleet.one("celery_beat"), ["cat", path]))["entries"]
        end = datetime.now(UTC) + timedelta(minutes=minutes)
        return all(
            datetime.fromisoformat(entry["due"]) > end
            for entry in entries
            if entry["task"].startswith(beginnings)
        )

    wait_for("none is due soon", 60 * (minutes + 1), look, pause=5)
