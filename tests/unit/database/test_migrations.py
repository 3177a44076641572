"""Which migrations of a Django project are pending."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.database.conftest import Project

FILES = {
    "plain.py": "from celery import Celery; app = Celery('plain')",
    "bare.py": "from shop.settings import *; DATABASES = {}",
    "refused.py": """
from shop.settings import *
DATABASES = {"default": {"ENGINE": "refusing", "NAME": "x", "PASSWORD": "quite-secret"}}
""",
    "refusing/__init__.py": "",
    "refusing/base.py": """
from django.db.backends.sqlite3 import base
class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, params):
        raise self.Database.OperationalError("no login with " + self.settings_dict["PASSWORD"])
""",
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Project:
    """Return the project with further modules."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    made = Project(tmp_path)
    made.environment["PYTHONPATH"] = f"{made.variables['PYTHONPATH']}:{tmp_path}"
    return made


def pending(project: Project, tmp_path: Path, *one_way: str) -> dict[str, Any]:
    (tmp_path / "release.json").write_text(json.dumps({"one_way": one_way}))
    own = {"CELERY_LOADER": "app"}
    done = project.start("-m", "celery_fleet.ops.migrations", str(tmp_path), environment=own)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    return found


@pytest.mark.slow
def test_none_is_pending_after_all_have_run(project: Project, tmp_path: Path) -> None:
    expected = {"ok": True, "error": None, "pending": [], "one_way": []}
    assert pending(project, tmp_path) == expected


def test_all_migrations_of_a_new_database_are_pending(tmp_path: Path) -> None:
    name = "django_celery_beat.0001_initial"
    found = pending(Project(tmp_path), tmp_path, name, "shop.0001_other")
    assert found["pending"][0] == name
    assert len(found["pending"]) > 10
    assert found["one_way"] == [name]


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"DJANGO_SETTINGS_MODULE": "bare"}, id="Django without a database"),
        pytest.param({"CELERY_APP": "plain"}, id="no Django project"),
    ],
)
def test_an_application_without_a_django_database_has_none(
    elsewhere: Project, tmp_path: Path, environment: dict[str, str]
) -> None:
    elsewhere.environment |= environment
    assert pending(elsewhere, tmp_path)["pending"] is None


def test_a_database_that_does_not_answer_is_an_error_without_its_password(
    elsewhere: Project, tmp_path: Path
) -> None:
    elsewhere.environment["DJANGO_SETTINGS_MODULE"] = "refused"
    found = pending(elsewhere, tmp_path)
    assert found == {"ok": False, "error": "OperationalError: no login with ***"}
