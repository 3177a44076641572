"""Use several applications on the same hosts: ask them, change them, and check what they leave."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support import plays, secrets, units, web
from support.inventory import ROOT, Fleet, load_fleet
from support.plays import Run
from support.waiting import wait_for

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "fleets")
LISTED = yaml.safe_load((ROOT / "molecule" / SCENARIO / "vars/applications.yml").read_text())
INVENTORIES = {one["name"]: one["inventory"] for one in LISTED["fleets_applications"]}
NAMES = tuple(INVENTORIES)

# Places that deploys write and processes read, without what the processes themselves write.
PLACES = (
    *("/etc/celery-fleet", "/etc/systemd/system", "/etc/nginx/conf.d", "/etc/logrotate.d"),
    *("/etc/tmpfiles.d", "/etc/sysusers.d"),
)

Unit = tuple[str, str]  # host and unit

# Sends tasks as the application's own processes would, and waits for some of them.
_SEND = """
import json, os, sys
from celery.app.utils import find_app
app = find_app(os.environ["CELERY_APP"])
found = []
for task in json.load(sys.stdin):
    sent = app.send_task(task["name"], args=task["args"], **task["options"])
    if task["wait"]:
        sent.get(timeout=task["wait"], propagate=False)
    ended = [sent.state, repr(sent.result)] if task["wait"] else ["", ""]
    found.append({"id": sent.id, "state": ended[0], "result": ended[1]})
print(json.dumps(found))
"""
_STATE = """
import os, sys
from celery.app.utils import find_app
app = find_app(os.environ["CELERY_APP"])
print(app.AsyncResult(sys.argv[1]).state)
"""


@dataclass(frozen=True)
class Answer:
    """The result of a command on a host, and how many seconds it took."""

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def text(self) -> str:
        """Return everything that it printed."""
        return self.output + self.errors

    @property
    def last(self) -> Any:
        """Return the JSON in its last line."""
        return json.loads(self.output.strip().splitlines()[-1])


@dataclass(frozen=True)
class Sent:
    """A task that was sent, with state and result if the test waited for its end."""

    id: str
    state: str
    result: str


def load(name: str) -> Fleet:
    """Return an application's fleet by its name in the scenario's vars/applications.yml."""
    return load_fleet((INVENTORIES[name], LISTED["fleets_overlay"]))


def app_of(fleet: Fleet) -> str:
    """Return the application's name in its inventory."""
    return str(fleet.of("fleet")["celery_app_name"])


@functools.cache
def hidden(name: str) -> tuple[tuple[str, str], ...]:
    """Return name and form of each secret of an application."""
    return tuple(
        (what, form) for what, forms in secrets.needles(load(name)).items() for form in forms
    )


# --- commands of the operator ----------------------------------------------------------------------


def call(
    fleet: Fleet,
    host: str,
    words: str | Sequence[str],
    stdin: str = "",
    timeout: float = 120,
    *,
    hurried: bool = False,
) -> Answer:
    """Run celery-fleet as documented for hosts with several applications; check that it prints no secret of any.

    Args:
        fleet: The application's fleet.
        host: Where to run it.
        words: What is typed behind celery-fleet.
        stdin: Text on its standard input.
        timeout: Seconds after which the test ends it.
        hurried: Whether it has its default --timeout, instead of the tests'.
    """
    listed = shlex.split(words) if isinstance(words, str) else list(words)
    default = ["-u", "CELERY_FLEET_TIMEOUT"] if hurried else []
    command = ["env", *default, f"CELERY_FLEET_APP={app_of(fleet)}", "celery-fleet", *listed]
    began = time.monotonic()
    done = fleet.execute(host, command, stdin, timeout)
    answer = Answer(done.status, done.output, done.errors, time.monotonic() - began)
    leaked = {what for name in NAMES for what, form in hidden(name) if form in answer.text}
    assert leaked == set(), f"celery-fleet {shlex.join(listed)} prints secrets"
    return answer


def must(fleet: Fleet, host: str, words: str | Sequence[str], stdin: str = "") -> Answer:
    """Run celery-fleet, which must succeed."""
    answer = call(fleet, host, words, stdin)
    assert answer.status == 0, f"{words}: status {answer.status}: {answer.text[-3000:]}"
    return answer


def python(fleet: Fleet, script: str, *arguments: str, stdin: str = "") -> Answer:
    """Run a script with the environment and the credentials of the application's producers."""
    words = ["exec", "--", "python", "-c", script, *arguments]
    return must(fleet, fleet.one("celery_producers"), words, stdin)


def task(name: str, *args: Any, wait: float = 0, **options: Any) -> dict[str, Any]:
    """Return a task call for `send`; `wait` is for how many seconds to wait for its end."""
    return {"name": name, "args": args, "wait": wait, "options": options}


def send(fleet: Fleet, *tasks: Mapping[str, Any]) -> list[Sent]:
    """Send tasks, one after the other."""
    answer = python(fleet, _SEND, stdin=json.dumps(tasks))
    return [Sent(**one) for one in answer.last]


def run(fleet: Fleet, name: str, *args: Any, wait: float = 30) -> Sent:
    """Send a task and wait until it succeeds."""
    done = send(fleet, task(name, *args, wait=wait))[0]
    assert done.state == "SUCCESS", f"{name}: {done.state}: {done.result}"
    return done


def state_of(fleet: Fleet, identity: str) -> str:
    """Return Celery's name for a task's state."""
    return python(fleet, _STATE, identity).output.split()[-1]


def nodes(fleet: Fleet) -> dict[str, list[str]]:
    """Return the queues of every worker of the inventory by its node name."""
    found = {}
    for host in fleet.hosts("celery_workers"):
        variables = fleet.expected[host]
        for worker in variables["celery_worker_host_instances"]:
            own = variables["celery_worker_instances"][worker] or {}
            found[f"{worker}@{host}"] = own.get("queues", [worker])
    return found


def ran_on(fleet: Fleet, identity: str) -> list[str]:
    """Return the queues of the worker that ran a task, as the workers report it to Flower."""
    path = f"/api/task/info/{identity}"

    def look() -> Any:
        answer = web.flower(fleet, path)
        return answer.json if answer.status == 200 and answer.json.get("worker") else None

    return nodes(fleet)[wait_for(f"Flower hears of {identity}", 15, look)["worker"]]


# --- processes and files ---------------------------------------------------------------------------


def pids(fleet: Fleet) -> dict[Unit, str]:
    """Return the main process of every service of an application, without nginx, which all share."""
    return {key: pid for key, pid in units.main_pids(fleet).items() if key[1] != "nginx.service"}


def files(fleet: Fleet) -> dict[str, str]:
    """Return by host the names, owners, modes and hashes of an application's files, and its links into releases."""
    app, roots = app_of(fleet), " ".join(PLACES)
    script = f"""
        find {roots} -type f -path '*{app}*' -printf '%p %u:%g %m ' -exec sha256sum {{}} \\; 2>/dev/null |
          cut -d' ' -f1-4 | sort
        find {roots} /opt/{app} -maxdepth 3 -type l -path '*{app}*' -printf '%p -> %l\\n' 2>/dev/null | sort
    """
    return {host: fleet.must(host, script) for host in fleet.hosts("fleet")}


def serving(fleet: Fleet) -> dict[str, str]:
    """Return by host the release that each process should run, and the current one."""
    script = f"cd /opt/{app_of(fleet)} || exit 0; for l in pins/* current; do echo $l $(readlink $l); done"
    return {host: fleet.execute(host, script).output for host in fleet.hosts("fleet")}


@dataclass(frozen=True)
class Look:
    """Processes and files of some applications, to compare with a later look."""

    fleets: tuple[Fleet, ...]
    pids: tuple[Mapping[Unit, str], ...]
    files: tuple[Mapping[str, str], ...]

    @classmethod
    def at(cls, *fleets: Fleet) -> Look:
        """Look now."""
        return cls(fleets, tuple(map(pids, fleets)), tuple(map(files, fleets)))

    def unchanged(self) -> None:
        """Check that the same processes still run, from the same files."""
        later = Look.at(*self.fleets)
        assert later.pids == self.pids
        assert later.files == self.files


def journal(fleet: Fleet, host: str, unit: str, *words: str) -> list[tuple[float, str]]:
    """Return time and message of each line of a unit's journal."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=json", f"--unit={unit}", *words]
    lines = map(json.loads, fleet.must(host, command).splitlines())
    return [
        (int(line["__REALTIME_TIMESTAMP"]) / 1e6, line["MESSAGE"])
        for line in lines
        if isinstance(line["MESSAGE"], str)
    ]


def worker_units(fleet: Fleet) -> list[Unit]:
    """Return host and unit of every worker."""
    app = app_of(fleet)
    return [
        (node.partition("@")[2], f"{app}-worker@{node.partition('@')[0]}.service")
        for node in nodes(fleet)
    ]


# --- runs of playbooks -----------------------------------------------------------------------------


class Workshop:
    """Makes runs of site.yml with something changed, during a test session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count()

    def variables(self, **values: Any) -> str:
        """Return the option that sets variables for all hosts."""
        path = self.directory / f"variables-{next(self._numbers)}.json"
        path.write_text(json.dumps(values))
        return f"--extra-vars=@{path}"

    def source(self, fleet: Fleet, **replaced: tuple[str, str]) -> dict[str, Any]:
        """Return celery_app_source of a changed copy of the application.

        Args:
            fleet: The fleet of the application.
            replaced: By file name (with `__` for `/` and without `.py`), the text to replace and its replacement.
        """
        own = dict(fleet.of("fleet")["celery_app_source"])
        copy = self.directory / f"source-{next(self._numbers)}"
        unneeded = shutil.ignore_patterns("__pycache__", ".*", "db.sqlite3", "staticfiles")
        shutil.copytree(ROOT / own["path"], copy, ignore=unneeded)
        for name, (old, new) in replaced.items():
            path = copy / f"{name.replace('__', '/')}.py"
            text = path.read_text()
            assert text.count(old) == 1, f"{path.name} has {old!r} not exactly once"
            path.write_text(text.replace(old, new))
        return {**own, "path": str(copy)}

    def path_of(self, source: Mapping[str, Any], name: str) -> Path:
        """Return the path of a file in such a copy; the file must exist."""
        path = Path(source["path"]) / name
        assert path.is_file(), f"{name} is not in the application"
        return path

    def site(self, fleet: Fleet, title: str, *arguments: str) -> Run:
        """Run site.yml for one application."""
        return plays.play(fleet, f"{app_of(fleet)}-{title}", *arguments)

    def plan(self, fleet: Fleet, title: str, *arguments: str) -> Run:
        """Run plan.yml for one application."""
        name = f"{app_of(fleet)}-{title}"
        return plays.play(fleet, name, *arguments, playbook="playbooks/plan.yml")

    def settle(self, fleet: Fleet, title: str) -> None:
        """Bring an application back to its inventory's state."""
        done = self.site(fleet, title)
        assert done.status == 0, done.end
        units.wait_until_up(fleet, 30)


@contextmanager
def stopped(fleet: Fleet, host: str, unit: str, *more: str) -> Iterator[None]:
    """Stop a unit, and others with it, during a block; afterwards all of the application runs again."""
    fleet.must(host, ["systemctl", "stop", unit, *more])
    try:
        yield
    finally:
        fleet.must(host, ["systemctl", "start", unit])
        units.wait_until_up(fleet, 60)
