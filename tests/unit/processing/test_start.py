"""The steps of the entrypoint and the start script, as the inventory's commands."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.processing.conftest import Run, Start

FIXTURES = """
import os, pathlib, time
import django
django.setup()
from django.core.management import call_command
from backend_django.management.commands import load_fixtures_once as command

def meanwhile(*arguments, real=command.fixtures):
    # It has looked and found no mark; now it waits until all others have.
    pathlib.Path(os.environ["READY"]).touch()
    while not pathlib.Path(os.environ["GO"]).exists():
        time.sleep(0.01)
    return real(*arguments)

command.fixtures = meanwhile
call_command("load_fixtures_once")
"""

KILLED = """
import os
import django
django.setup()
from django.core.management import call_command
from backend_django.management.commands import load_fixtures_once as command

def load(*arguments, **options):
    call_command(*arguments, **options)
    os._exit(9)

command.call_command = load
call_command("load_fixtures_once")
"""


def count(directory: Path, query: str) -> int:
    with sqlite3.connect(directory / "db.sqlite3") as database:
        return int(database.execute(query).fetchone()[0])


OPERATIONS = "SELECT count(*) FROM backend_django_operation"
MARKS = "SELECT count(*) FROM site_config_setupflag WHERE setup_complete"


@pytest.mark.slow
def test_all_steps_can_be_repeated(
    run: Run, place: dict[str, str], inventory: dict[str, Any], tmp_path: Path
) -> None:
    commands = [each["argv"] for each in inventory["celery_release_commands"]]
    assert [argv[:2] for argv in commands] == [["python", "manage.py"]] * len(commands)
    # In the document's order: the entrypoint's steps, then the start script's. Files are collected once they have their
    # values.
    assert [argv[2] for argv in commands] == [
        *("wait_for_database", "migrate", "load_fixtures_once", "ensure_superuser"),
        *("inject_frontend", "collectstatic"),
    ]
    said: list[list[str]] = []
    place |= {"CELERY_FLEET_RELEASE": "r1", "ENVIRONMENT": "production"}
    for _ in range(2):
        outputs = []
        for argv in commands:
            done = run(*argv[1:], **place)
            assert done.returncode == 0, done.stdout + done.stderr
            outputs.append(done.stdout)
        said.append(outputs)
    assert "loaded for production: operations.json" in said[0][2]
    assert "loaded already" in said[1][2]
    assert [text[3].strip() for text in said] == [
        "superuser admin: made",
        "superuser admin: as it should be",
    ]
    assert (count(tmp_path, OPERATIONS), count(tmp_path, MARKS)) == (2, 1)
    # All served files are the release's own.
    (release,) = (tmp_path / "static").iterdir()
    assert release.name == "r1"
    (values,) = release.iterdir()
    page = (values / "static/frontend/index.html").read_text()
    assert 'src="/static/frontend/assets/' in page
    assert page == (values / "frontend/index.html").read_text()
    assert (values / "static/admin/css/base.css").is_file()


@pytest.mark.slow
def test_only_one_of_four_concurrent_processes_loads_the_fixtures(
    run: Run, start: Start, place: dict[str, str], tmp_path: Path
) -> None:
    assert run("manage.py", "migrate", "-v0", **place).returncode == 0
    ready = [tmp_path / f"ready{n}" for n in range(4)]
    environment = {**place, "GO": str(tmp_path / "go"), "ENVIRONMENT": "production"}
    running = [start("-c", FIXTURES, **environment, READY=str(path)) for path in ready]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in ready):
        assert time.monotonic() < deadline, "not all of them got so far"
        assert [process.poll() for process in running] == [None] * 4
        time.sleep(0.05)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4, outputs
    assert sorted(output.split(" at ")[0].strip() for output in outputs) == [
        "loaded for production: operations.json",
        *["the fixtures were loaded already,"] * 3,
    ]
    assert (count(tmp_path, OPERATIONS), count(tmp_path, MARKS)) == (2, 1)


@pytest.mark.slow
def test_a_process_that_is_killed_before_the_end_has_loaded_nothing(
    run: Run, place: dict[str, str], tmp_path: Path
) -> None:
    assert run("manage.py", "migrate", "-v0", **place).returncode == 0
    assert run("-c", KILLED, **place).returncode == 9
    assert (count(tmp_path, OPERATIONS), count(tmp_path, MARKS)) == (0, 0)
    # It is a development environment, like the settings of this place.
    assert (
        "dev_requests.json, operations.json"
        in run("manage.py", "load_fixtures_once", **place).stdout
    )
    assert (count(tmp_path, OPERATIONS), count(tmp_path, MARKS)) == (3, 1)


@pytest.mark.slow
def test_waiting_for_a_database_that_does_not_come_ends(
    run: Run, place: dict[str, str], tmp_path: Path
) -> None:
    place["DATABASE_URL"] = f"sqlite:///{tmp_path}/nowhere/db.sqlite3"
    begin = time.monotonic()
    done = run("manage.py", "wait_for_database", "--timeout", "1", **place)
    assert time.monotonic() - begin < 60
    assert done.returncode == 1
    assert done.stderr == (
        f"CommandError: the database {tmp_path}/nowhere/db.sqlite3 did not answer within 1 s:"
        " unable to open database file\n"
    )


AWKWARD = "https://a.example/x|y&z\\1?q='\"`${1}</script>é𝄞"


@pytest.mark.slow
def test_other_values_get_a_separate_directory(
    run: Run, place: dict[str, str], tmp_path: Path
) -> None:
    """The same release in another environment, with a value on which `sed` would fail."""
    for value in ("/api/v1", AWKWARD):
        done = run("manage.py", "inject_frontend", **place, VITE_APP_API_ROOT=value)
        assert done.returncode == 0, done.stderr
    scripts = [path.read_text() for path in (tmp_path / "static").glob("*/frontend/assets/*.js")]
    assert len(scripts) == 2
    roots = {json.loads(text.split("API_ROOT = ")[1].split(";\n")[0]) for text in scripts}
    assert roots == {"/api/v1", AWKWARD}


def test_the_site_does_not_start_without_its_front_end(
    run: Run, served: dict[str, str], tmp_path: Path
) -> None:
    served["STATIC_ROOT"] = str(tmp_path)
    done = run("-c", "import config.wsgi", **served)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "ImproperlyConfigured: there is no front-end in" in last
    assert last.endswith("run manage.py inject_frontend, then manage.py collectstatic")


def test_no_file_with_a_placeholder_is_served(
    run: Run, served: dict[str, str], tmp_path: Path, example: Path
) -> None:
    served["STATIC_ROOT"] = str(tmp_path)
    code = "from django.conf import settings; print(settings.STATIC_ROOT)"
    root = Path(run("-c", f"import config; {code}", **served).stdout.strip())
    (root / "frontend").mkdir(parents=True)
    # It would have them if it were a plain copy of the build.
    (root / "frontend/index.html").write_bytes((example / "frontend/dist/index.html").read_bytes())
    done = run("-c", "import config.wsgi", **served)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "placeholders left in" in last
    assert "index.html (VITE_APP_STATIC_ROOT_PLACEHOLDER)" in last
