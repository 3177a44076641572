"""The application's own tests pass, and its files are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.django_example import skipped
from tests.unit.marketplace_ops import documented
from tests.unit.marketplace_ops.conftest import Run

pytestmark = pytest.mark.slow

# What SQLite skips. molecule/database_fleets/tests/test_own_tests.py runs all tests on a host with PostgreSQL, and
# refuses a skipped one.
ON_HOSTS = {
    "tests.test_backup.OnPostgreSQL.test_a_broken_one_changes_nothing",
    "tests.test_backup.OnPostgreSQL.test_a_database_that_is_not_there_is_named",
    "tests.test_backup.OnPostgreSQL.test_there_and_back",
}


def test_its_own_tests_pass(run: Run) -> None:
    done = run("manage.py", "test", "--noinput", "--verbosity", "2")
    assert done.returncode == 0, done.stderr
    # Every task and its effect, repeated.
    counted = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) >= 71
    assert skipped(done.stderr) == ON_HOSTS
    assert f"\nOK (skipped={len(ON_HOSTS)})\n" in done.stderr


def test_models_and_migrations_agree(run: Run, tmp_path: Path, served: dict[str, str]) -> None:
    # The database is elsewhere: Django creates the file, and next to the code it would be part of a release.
    database = {**served, "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"}
    done = run("manage.py", "makemigrations", "--check", "--dry-run", **database)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No changes detected" in done.stdout


def test_a_developer_needs_no_environment(run: Run) -> None:
    done = run("manage.py", "check", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_task_and_entry(example: Path) -> None:
    readme = (example / "README.md").read_text()
    for task, queue in documented.TASKS.items():
        module, _, name = task.rpartition(".")
        assert f"**`{module}.…`**, queue `{queue}`" in readme
        assert re.search(rf"^\| `{name}\(", readme, re.MULTILINE), name
    for entry, (task, _) in documented.SCHEDULE.items():
        assert f"| {entry} | `{task}` |" in readme


def test_the_lock_satisfies_the_requirements(example: Path) -> None:
    asked = re.findall(r"^([\w-]+)", (example / "requirements.in").read_text(), re.MULTILINE)
    lock = (example / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    assert "django-celery-beat" in asked
    assert set(asked) <= set(pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    assert pins["django"].startswith("5.2.")
    assert pins["celery"].startswith("5.7.")
