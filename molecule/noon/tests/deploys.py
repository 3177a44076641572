"""Releases of the load's application, each with one difference, and the playbooks that deploy them.

Also what watches the fleet meanwhile: requests to the web process, and the slots of beat.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground import APP, QUICK, Case, Ground, playbook
from support import web
from support.inventory import ROOT

SOURCE = ROOT / "molecule/restarts/application"

#: What `load.migrate` does in a release whose migration is fine.
MIGRATE = '"""The migration of this release."""\n'

COMMAND = {"name": "migrate", "argv": ["python", "-m", "load.migrate"]}

#: The end of `load.nap`, and of other tasks.
_NAP = "    row = _start(self)\n    time.sleep(seconds)\n    record.end(row)\n"
#: Only that of `load.nap`. If a header of a chord failed, Celery would never send the chord's body.
_ONLY_NAP = f'makes the message large."""\n{_NAP}'


def _in(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a change of one file of the application; the text to replace must be there."""

    def change(source: Path) -> None:
        path = source / "load" / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))

    return change


def _migrate(text: str) -> Callable[[Path], None]:
    return lambda source: (source / "load" / "migrate.py").write_text(text) and None


#: The task that only some releases have.
FRESH = "load.fresh"


def with_fresh(source: Path) -> None:
    """Add the task `FRESH` to a release; it sleeps as `load.nap` does."""
    path = source / "load" / "tasks.py"
    text = path.read_text()
    task = f'\n\n@app.task(name="{FRESH}", bind=True, ignore_result=True)\n'
    path.write_text(f"{text}{task}def fresh(self: Task[Any, Any], seconds: float) -> None:\n{_NAP}")


def failing_with_fresh(source: Path) -> None:
    """Let every other `load.nap` fail, in a release that also has the task `FRESH`."""
    _in(
        "tasks.py",
        _ONLY_NAP,
        _ONLY_NAP + "    if row % 2:\n        raise RuntimeError('every other task fails')\n",
    )(source)
    with_fresh(source)


#: Releases that must be refused, each with the words of the message.
BROKEN: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "import": (
        _in("celery_app.py", "app = Celery(", "raise RuntimeError('no import')\napp = Celery("),
        "no import",
    ),
    "start": (
        _in(
            "celery_app.py",
            "events.connect()\n",
            "events.connect()\n\n\ndef _die(**_):\n    os._exit(3)\n\n\n"
            "from celery import signals\n\nsignals.worker_init.connect(_die, weak=False)\n",
        ),
        "does not start",
    ),
    "task": (
        _in("tasks.py", 'name="load.stumble"', 'name="load.tumble"'),
        "the release has no task load.stumble",
    ),
    "failures": (failing_with_fresh, "celery_canary_max_failures"),
    "slow": (
        _in("tasks.py", _NAP, _NAP.replace("time.sleep(seconds)", "time.sleep(seconds + 0.5)")),
        "celery_canary_max_slowdown",
    ),
    "leak": (
        # Bytes that were written, or the kernel would keep no page for them.
        _in(
            "tasks.py",
            _NAP,
            _NAP + "    vars(app).setdefault('kept', []).append(b'x' * 3_000_000)\n",
        ),
        "celery_canary_max_",
    ),
    "migration": (_migrate("raise SystemExit('the migration fails')\n"), "the migration fails"),
}

#: Variables with which such a release is deployed.
BROKEN_VARIABLES: Mapping[str, Mapping[str, Any]] = {
    # Of a hundred tasks one is a `load.stumble`, so a canary may get none in the inventory's 30 s.
    "task": {"celery_canary_seconds": 90},
    # The fleet goes back to a release that lacks what the inventory names.
    "failures": {
        "celery_beat_schedule": {
            "fresh": {"task": FRESH, "crontab": {"minute": "*"}, "args": [0.01], "queue": "fast"}
        },
        "celery_app_task_routes": {FRESH: {"queue": "fast"}},
    },
}


@dataclass(frozen=True)
class Deployed:
    """A run of one of the playbooks."""

    status: int
    text: str

    @property
    def end(self) -> str:
        """Return the last lines, for the message of a failing test."""
        return "\n".join(self.text.splitlines()[-60:])

    @property
    def words(self) -> str:
        """Return the output with single spaces, as Ansible breaks lines anywhere."""
        return " ".join(self.text.split())


@dataclass(frozen=True)
class Running:
    """A run of one of the playbooks that may not have ended; its output begins at a place of the case's log."""

    process: subprocess.Popen[bytes]
    log: Path
    began: int

    @property
    def text(self) -> str:
        """Return its output so far."""
        return self.log.read_bytes()[self.began :].decode(errors="replace")

    def result(self) -> Deployed:
        """Wait for its end."""
        return Deployed(self.process.wait(), self.text)


class Deploys:
    """Deploys releases to the fleet under test."""

    def __init__(self, ground: Ground, directory: Path) -> None:
        self.ground = ground
        self.directory = directory
        self._number = 0

    def release(self, name: str, change: Callable[[Path], None] | None = None) -> Path:
        """Return a source that differs from all others; `change` makes it worse."""
        self._number += 1
        source = self.directory / f"{self._number}-{name}"
        shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
        (source / "load" / "migrate.py").write_text(MIGRATE)
        (source / "load" / "version.py").write_text(f'"""Release {self._number}, {name}."""\n')
        if change is not None:
            change(source)
        return source

    def deploy(self, case: Case, source: Path | None, *arguments: str) -> Deployed:
        """Run deploy_app.yml to its end; with a source instead of the inventory's."""
        with self.deploying(case, source, *arguments) as run:
            return run.result()

    def deploying(
        self, case: Case, source: Path | None, *arguments: str
    ) -> AbstractContextManager[Running]:
        """Run deploy_app.yml while the block runs."""
        return self._running(case, "playbooks/deploy_app.yml", source, arguments)

    def back(self, case: Case, *arguments: str) -> Deployed:
        """Run rollback_app.yml."""
        with self._running(case, "playbooks/rollback_app.yml", None, arguments) as run:
            return run.result()

    def site(self, case: Case, source: Path) -> Deployed:
        """Run site.yml with a source."""
        with self._running(case, "site.yml", source, ()) as run:
            return run.result()

    @contextmanager
    def _running(
        self, case: Case, name: str, source: Path | None, arguments: tuple[str, ...]
    ) -> Iterator[Running]:
        began = case.log.stat().st_size if case.log.exists() else 0
        given: dict[str, Any] = {**QUICK, "celery_release_commands": [COMMAND]}
        if source is not None:
            given["celery_app_source"] = {"path": str(source)}
        with playbook("-e", json.dumps(given), *arguments, name, log=case.log) as process:
            yield Running(process, case.log, began)

    # --- what watches the fleet ------------------------------------------------------------------

    def requests(self) -> AbstractContextManager[list[int]]:
        """Send requests to the web process while a block runs, and collect their statuses."""
        control = self.ground.control
        variables = self.ground.fleet.expected[control]
        port = variables["celery_producer_web_port"]
        return web.requests_meanwhile(lambda: web.request(variables, control, port, "/"))

    def slots(self, began: float, ended: float) -> dict[str, int]:
        """Return how many of beat's minutes there were in a time, and how many were `doubled` and `missed`.

        The ids of beat's tasks have no dot, unlike those of the load.
        """
        text = (
            "SELECT started FROM runs WHERE strpos(task, '.') = 0"
            " AND started BETWEEN :began::float8 AND :ended::float8"
        )
        found = self.ground.ask(text, began=began, ended=ended).split()
        seen = Counter(int(float(moment) // 60) for moment in found)
        # A task may wait some seconds in its queue, so the last slot only counts if it was over half a minute ago.
        wanted = range(int(began // 60) + 1, int((ended - 30) // 60) + 1)
        doubled = sum(seen[minute] - 1 for minute in wanted if seen[minute] > 1)
        missed = sum(not seen[minute] for minute in wanted)
        return {"slots": len(wanted), "doubled": doubled, "missed": missed}

    def send_fresh(self, name: str, number: int = 20) -> None:
        """Send tasks that only some releases know, from a release that need not know them."""
        code = (
            "import sys; from load.celery_app import app; "
            f"[app.send_task({FRESH!r}, (0.05,), task_id=f'{{sys.argv[1]}}.{{n:06d}}', queue='fast')"
            " for n in range(int(sys.argv[2]))]"
        )
        command = ["celery-fleet", "--app", APP, "exec", "--", "python", "-c", code, name]
        self.ground.fleet.must(self.ground.control, [*command, str(number)])

    def fresh(self, name: str) -> list[int]:
        """Return how often each of these tasks has begun, of those that have ended."""
        text = "SELECT count(*) FROM runs WHERE starts_with(task, :'name' || '.') GROUP BY task HAVING max(ended) > 0"
        return [int(line) for line in self.ground.ask(text, name=name).split()]

    # --- state -----------------------------------------------------------------------------------

    def record(self, host: str = "") -> dict[str, Any]:
        """Return what the runs have recorded, as an operator sees it on a host, by default one of workers."""
        host = host or self.ground.workers[0]
        text = self.ground.fleet.must(host, ["celery-fleet", "--app", APP, "releases", "--json"])
        return dict(json.loads(text))

    def settled(self) -> str:
        """Return the release that is recorded and that every process has; nothing is left of a canary.

        Raises:
            AssertionError: The fleet is between two releases.
        """
        current = str(self.record()["current"])
        assert self.runs() == set(self.pins().values()) == {current}
        leftovers = "ls /run/systemd/system /etc/systemd/system | grep '\\.next\\.' ; exit 0"
        assert {self.ground.fleet.must(host, leftovers) for host in self.ground.workers} == {""}
        return current

    def pins(self) -> dict[str, str]:
        """Return the release that each unit of each host starts from."""
        found = {}
        for host in self.ground.fleet.hosts("fleet"):
            listed = self.ground.fleet.execute(
                host, f"cd /opt/{APP}/pins && for pin in $(ls); do echo $pin $(readlink $pin); done"
            )
            for line in filter(None, listed.output.splitlines()):
                name, _, target = line.partition(" ")
                found[f"{host} {name}"] = target.rpartition("/")[2]
        return found

    def runs(self) -> set[str]:
        """Return the releases that the workers' processes run, by the environment of each."""
        script = (
            f"for unit in $(systemctl list-units --no-legend --plain '{APP}-worker@*' | cut -d' ' -f1); do "
            "pid=$(systemctl show --property=MainPID --value $unit); "
            "tr '\\0' '\\n' </proc/$pid/environ | grep ^CELERY_FLEET_RELEASE=; done"
        )
        found: set[str] = set()
        for host in self.ground.workers:
            found |= set(re.findall(r"RELEASE=(\w+)", self.ground.fleet.must(host, script)))
        return found
