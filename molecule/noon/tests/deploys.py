"""Releases of the load's application, each with one difference, and the playbooks that deploy them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground import APP, QUICK, Case, Ground, playbook
from support.inventory import ROOT

SOURCE = ROOT / "molecule/restarts/application"

#: What `load.migrate` does in a release whose migration is fine.
MIGRATE = '"""The migration of this release."""\n'

COMMAND = {"name": "migrate", "argv": ["python", "-m", "load.migrate"]}

_NAP = "    row = _start(self)\n    time.sleep(seconds)\n    record.end(row)\n"


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
    "failures": (
        _in(
            "tasks.py",
            _NAP,
            _NAP + "    if row % 2:\n        raise RuntimeError('every other task fails')\n",
        ),
        "celery_canary_max_failures",
    ),
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
        with self.deploying(case, source, *arguments) as process:
            process.wait()
        return self._result(case, process)

    @contextmanager
    def deploying(
        self, case: Case, source: Path | None, *arguments: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run deploy_app.yml while the block runs."""
        with self._running(case, "playbooks/deploy_app.yml", source, arguments) as process:
            yield process

    def back(self, case: Case, *arguments: str) -> Deployed:
        """Run rollback_app.yml."""
        with self._running(case, "playbooks/rollback_app.yml", None, arguments) as process:
            process.wait()
        return self._result(case, process)

    def site(self, case: Case, source: Path) -> Deployed:
        """Run site.yml with a source."""
        with self._running(case, "site.yml", source, ()) as process:
            process.wait()
        return self._result(case, process)

    @contextmanager
    def _running(
        self, case: Case, name: str, source: Path | None, arguments: tuple[str, ...]
    ) -> Iterator[subprocess.Popen[bytes]]:
        self._began = case.log.stat().st_size if case.log.exists() else 0
        given: dict[str, Any] = {**QUICK, "celery_release_commands": [COMMAND]}
        if source is not None:
            given["celery_app_source"] = {"path": str(source)}
        with playbook("-e", json.dumps(given), *arguments, name, log=case.log) as process:
            yield process

    def _result(self, case: Case, process: subprocess.Popen[bytes]) -> Deployed:
        text = case.log.read_bytes()[self._began :].decode(errors="replace")
        return Deployed(process.returncode, text)

    # --- state -----------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """Return what the runs have recorded, as an operator sees it on a worker host."""
        host = self.ground.workers[0]
        text = self.ground.fleet.must(host, ["celery-fleet", "--app", APP, "releases", "--json"])
        return dict(json.loads(text))

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
