"""Fixtures: a Django project in a separate process, because Django's settings are global to a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[2] / "src"


class Project:
    """The project with a database and an inventory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, Any] = {
            "Sync All Suppliers": {
                "task": "shop.sync",
                "interval": 3600,
                "kwargs": {"key": "s3cr3t"},
            },
            "nightly": {"task": "shop.clean", "crontab": {"minute": 0, "hour": 2}, "queue": "mail"},
        }
        self.policy = "add"
        self.edited = "keep"
        self.missed: dict[str, Any] = {}
        self.environment = {"DATABASE_URL": f"sqlite:///{directory}/db.sqlite3"}

    @property
    def document(self) -> dict[str, Any]:
        return {
            "format": 1,
            "app": "shop",
            "component": "beat",
            "celery": {"broker_url": "memory://", "beat_schedule": self.entries},
            "beat_schedule_policy": self.policy,
            "beat_scheduler": "database",
            "beat_schedule_on_edit": self.edited,
            "beat_missed": self.missed,
        }

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of its processes."""
        return {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
            "PATH": os.environ["PATH"],
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_APP": "shop",
            "CELERY_FLEET_COMPONENT": "producer",
            **self.environment,
        }

    def start(
        self, *argv: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *argv],
            cwd=HERE / "project",
            env={**self.variables, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ask(self, *argv: str) -> dict[str, Any]:
        done = self.start(
            "-m",
            "celery_fleet.beat.database.program",
            "--settings",
            *argv,
            stdin=json.dumps(self.document),
        )
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if answer["ok"] else 1)
        assert "s3cr3t" not in done.stdout
        return answer

    def python(self, code: str) -> str:
        """Run code in the project, with django_celery_beat's models imported; return its output."""
        head = (
            "import django; django.setup()\n"
            "from django_celery_beat.models import *\n"
            "of = lambda name: PeriodicTask.objects.get(name=name)\n"
        )
        environment = {"DJANGO_SETTINGS_MODULE": "shop.settings", "CELERY_LOADER": "app"}
        done = self.start("-c", head + code, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def migrate(self) -> None:
        self.python(
            "from django.core.management import call_command; call_command('migrate', verbosity=0)"
        )

    def table(self) -> dict[str, str]:
        """Return the names of the entries with their times."""
        code = (
            "import json\n"
            "print(json.dumps({t.name: str(t.schedule) + ('' if t.enabled else ' off') for t in"
            " PeriodicTask.objects.all()}))"
        )
        found: dict[str, str] = json.loads(self.python(code))
        return found


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = Project(tmp_path_factory.mktemp("migrated"))
    found.migrate()
    return found.directory / "db.sqlite3"


@pytest.fixture
def project(tmp_path: Path, migrated: Path) -> Project:
    shutil.copy(migrated, tmp_path / "db.sqlite3")
    return Project(tmp_path)
