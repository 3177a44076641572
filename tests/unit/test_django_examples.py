"""What holds for every example with Django: its own tests pass, and its files are complete."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.django_example import EXAMPLES, environment_of, python_in


@dataclass(frozen=True)
class Example:
    """An example, and what its commands need.

    Attributes:
        name: Its directory.
        tests: How many tests it has at least.
        skipped: The tests that SQLite skips. A `test_own_tests.py` below `molecule/` runs all of them on a host with
            PostgreSQL, and refuses a skipped one.
        developer: What a developer needs in the environment.
        asks: Names that its requirements must have.
        backend: The directory with its `manage.py`.
    """

    name: str
    tests: int
    skipped: tuple[str, ...] = ()
    developer: Mapping[str, str] = field(default_factory=dict)
    asks: tuple[str, ...] = ("celery", "django")
    backend: str = "."

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run its `manage.py`."""
        return python_in(EXAMPLES / self.name / self.backend)(
            "manage.py", *arguments, **environment
        )


BEAT = ("celery", "django", "django-celery-beat")
WITH_DJANGO = [
    Example(
        "flash_promos",
        tests=30,
        skipped=("promotions.tests.test_services.TwiceAtOnce.test_everything_is_done_once",),
    ),
    Example(
        "marketplace_ops",
        tests=71,
        skipped=(
            "tests.test_backup.OnPostgreSQL.test_a_broken_one_changes_nothing",
            "tests.test_backup.OnPostgreSQL.test_a_database_that_is_not_there_is_named",
            "tests.test_backup.OnPostgreSQL.test_there_and_back",
        ),
        asks=BEAT,
    ),
    Example(
        "processing",
        tests=50,
        developer={"DJANGO_SETTINGS_MODULE": "config.settings.local"},
        asks=BEAT,
        backend="backend_django",
    ),
    Example("aiecommerce", tests=26, developer={"DEBUG": "1"}),
]
each_example = pytest.mark.parametrize("example", WITH_DJANGO, ids=lambda example: example.name)


@pytest.mark.slow
@each_example
def test_its_own_tests_pass(example: Example) -> None:
    """They run on SQLite: the bodies of tasks, also repeated and in all orders, the API, the commands."""
    done = example.manage("test", "--noinput", "--verbosity", "2", **example.developer)
    assert done.returncode == 0, done.stderr
    # The test runner also succeeds if it finds no test.
    counted = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) >= example.tests
    skipped = re.findall(r"^\w+ \(([\w.]+)\)(?:\n.*)? \.\.\. skipped", done.stderr, re.MULTILINE)
    assert set(skipped) == set(example.skipped)
    how = f" (skipped={len(example.skipped)})" if example.skipped else ""
    assert f"\nOK{how}\n" in done.stderr


@pytest.mark.slow
@each_example
def test_models_and_migrations_agree(example: Example, tmp_path: Path) -> None:
    # Django creates the database's file, and next to the code it would be part of a release.
    place = {
        **environment_of(example.name),
        **example.developer,
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
    }
    done = example.manage("makemigrations", "--check", "--dry-run", **place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No changes detected" in done.stdout


@pytest.mark.slow
@each_example
def test_a_developer_needs_no_more_environment(example: Example) -> None:
    done = example.manage("check", "--fail-level", "WARNING", **example.developer)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@each_example
def test_the_lock_satisfies_the_requirements(example: Example) -> None:
    directory = EXAMPLES / example.name
    requirements = (directory / "requirements.in").read_text().lower()
    asked = set(re.findall(r"^([\w-]+)", requirements, re.MULTILINE))
    lock = (directory / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    assert set(example.asks) <= asked <= pins.keys()
    assert lock.count("--hash=sha256:") >= len(re.findall(r"^\w\S*==", lock, re.MULTILINE))
    assert not re.search(r"https?:|file:|^-", lock, re.MULTILINE)
    assert pins["django"].startswith("5.2.")
    assert pins["celery"].startswith("5.7.")


@pytest.mark.parametrize("missing", ["DJANGO_SECRET_KEY", "DJANGO_ALLOWED_HOSTS"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("flash_promos", "marketplace.settings"),
        pytest.param("marketplace_ops", "config.settings", marks=pytest.mark.slow),
    ],
)
def test_a_missing_variable_is_named(name: str, settings: str, missing: str) -> None:
    given = environment_of(name)
    del given[missing]
    done = python_in(EXAMPLES / name)("-c", f"import {settings}", **given)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(
        f"{missing} is not set in the environment; DATABASE_URL is"
    )
