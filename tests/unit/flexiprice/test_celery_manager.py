from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CELERY = [sys.executable, "-m", "celery", "-A", "app.celery_app"]


def manage(backend: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(backend / "scripts" / "celery_manager.py"), *arguments],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_verbs_are_the_documented_ones(manager: ModuleType) -> None:
    assert list(manager.VERBS) == ["worker", "beat", "flower", "active", "scheduled", "purge"]


@pytest.mark.parametrize(
    ("verb", "options", "arguments"),
    [
        ("worker", [], ["worker", "--loglevel=info", "--concurrency=2"]),
        (
            "worker",
            ["-Q", "discounts"],
            ["worker", "--loglevel=info", "--concurrency=2", "-Q", "discounts"],
        ),
        ("active", [], ["inspect", "active"]),
        ("purge", ["-f"], ["purge", "-f"]),
    ],
)
def test_a_verb_becomes_its_celery_command(
    manager: ModuleType, verb: str, options: list[str], arguments: list[str]
) -> None:
    assert manager.celery_command(verb, options) == [*CELERY, *arguments]


def test_an_unknown_verb_is_refused_with_the_known_ones(backend: Path) -> None:
    run = manage(backend, "nope")
    assert run.returncode == 2
    assert "invalid choice: 'nope' (choose from" in run.stderr


@pytest.mark.parametrize(
    ("verb", "service"),
    [
        ("worker", "systemctl status 'flexiprice-worker@*'"),
        ("beat", "systemctl status flexiprice-beat;"),
        ("flower", "systemctl status flexiprice-flower,"),
    ],
)
@pytest.mark.parametrize("component", ["producer", "operator"])
def test_on_a_fleet_host_verbs_that_start_something_name_its_service(
    backend: Path, verb: str, service: str, component: str
) -> None:
    done = manage(backend, verb, CELERY_FLEET_COMPONENT=component)
    assert done.returncode == 2
    assert f"on this host the {verb} is a service: {service}" in done.stderr


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        (["active"], ["inspect", "active"]),
        (["scheduled"], ["inspect", "scheduled"]),
        (["purge", "-f"], ["purge", "-f"]),
    ],
)
@pytest.mark.parametrize("environment", [{}, {"CELERY_FLEET_COMPONENT": "operator"}])
def test_on_a_fleet_host_verbs_that_ask_call_celery(
    backend: Path,
    verb: list[str],
    arguments: list[str],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    # A fake package `celery` prints what it was called with, and where.
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery/__main__.py").write_text(
        "import os, sys\nprint([os.getcwd(), *sys.argv[1:]])\n"
    )
    (tmp_path / "celery/__init__.py").touch()
    done = manage(backend, *verb, PYTHONPATH=str(tmp_path), **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([str(backend), "-A", "app.celery_app", *arguments])
