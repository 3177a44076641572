"""Celery's own integration tests, against one of our workers while its connections are cut.

They are a load that was not written for this project: chords in chains in groups, which fail if a task is lost. They
come with Celery's source distribution.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)

from scripts.restarts import origin
from scripts.testhosts.fleet import cache_directory, pip_cache
from tests.facts import facts
from tests.fleet import ROOT, wait_for
from tests.support.redis_server import Server, redis_server

from .environments import PATIENCE, Environment, made

pytestmark = pytest.mark.long

OWN = Environment(
    f"{sys.version_info.major}.{sys.version_info.minor}",
    "own",
    ("celery[redis]==5.7.*", "pydantic>=2", "pytest-timeout>=2"),
)
#: In `make soak-long`, all of Celery's tests that need no RabbitMQ; otherwise these, which take two minutes.
CHOSEN = "not rabbitmq" if origin.is_soak() else "test_chord and chain and not rabbitmq"
DELIVERY = {
    "profile": "at_least_once",
    **dict.fromkeys(("lease", "hand_back", "carry", "outage", "dead_letters"), True),
    "fetch": "atomic",
}
#: Seconds between two cuts, in turn. They differ, because a worker that reconnects in step with them would never
#: consume.
PAUSES = (4.0, 9.0, 6.0)

#: Replaces the worker that these tests start in their own process.
CONFTEST = """

@pytest.fixture(scope="session")
def celery_session_worker():
    return None
"""
INI = """
[pytest]
python_classes = test_*
markers =
    amqp: needs RabbitMQ
    flaky: may be tried again, which is not done here
"""


def source(python: Path) -> Path:
    """Return the source distribution of the installed version of Celery."""
    version = subprocess.run(
        [python, "-c", "import celery; print(celery.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    place = cache_directory() / "celeries"
    found = place / f"celery-{version}.tar.gz"
    if not found.exists():
        done = subprocess.run(
            [
                *(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--cache-dir", str(pip_cache()), "--no-deps", "--no-binary=celery"),
                *("--dest", str(place), f"celery=={version}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert found.exists(), f"no source of Celery; pip says:\n{done.stdout[-2000:]}"
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with Celery's tests and the application of their tasks."""
    # Debian 12's Python can't filter what it extracts; tar refuses paths outside the directory.
    subprocess.run(
        ["tar", "--extract", "--file", source(made(OWN)), "--wildcards", "celery-*/t/*"],
        cwd=tmp_path,
        check=True,
    )
    (root,) = (path for path in tmp_path.iterdir() if path.name.startswith("celery-"))
    conftest = root / "t/integration/conftest.py"
    conftest.write_text(conftest.read_text() + CONFTEST)
    # One test waits 6 s only. A worker that lost several connections in a row waits 5 s before the next.
    canvas = root / "t/integration/test_canvas.py"
    canvas.write_text(canvas.read_text().replace("TIMEOUT / 10", "TIMEOUT / 2"))
    (root / "pytest.ini").write_text(INI)
    (root / "own.py").write_text(
        'from celery import Celery\napp = Celery("own", include=["t.integration.tasks"])\n'
    )
    return root


@contextmanager
def worker(directory: Path, port: int) -> Iterator[Path]:
    """Run one of our workers for these tests; yield the path of its log."""
    place = {"host": "127.0.0.1", "port": port}
    document = desired_settings.process_settings(
        facts("own", broker=place, results=place, visibility_timeout=300, delivery="at_least_once"),
        *("worker", "pw"),
        parts=DELIVERY,
    )
    conf = document["celery"]
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        conf.pop(name)
    for name in ("broker_url", "result_backend"):
        conf[name] = conf[name].replace("rediss://", "redis://")
    conf["result_extended"] = True  # as in these tests
    settings, runtime, path = (
        directory / name for name in ("worker.json", "runtime", "worker.log")
    )
    settings.write_text(json.dumps(document))
    runtime.mkdir()
    with path.open("wb") as log:
        process = subprocess.Popen(
            [
                *(made(OWN), "-m", "celery", "-A", "own", "worker", "-n", "w@own", "-Q", "celery"),
                *("-c", "4", "-l", "INFO"),
            ],
            cwd=directory,
            env={
                **environment(directory, port),
                "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
                "CELERY_FLEET_COMPONENT": "worker",
                "CELERY_FLEET_SETTINGS": str(settings),
                "RUNTIME_DIRECTORY": str(runtime),
                "PYTHONPATH": f"{ROOT / 'src'}:{directory}",
            },
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: "w@own ready." in path.read_text(), 90)
        yield path
        assert process.poll() is None, path.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def environment(directory: Path, port: int) -> dict[str, str]:
    url = f"redis://127.0.0.1:{port}/0"
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(directory),
        "REDIS_PORT": str(port),
        "TEST_BROKER": url,
        "TEST_BACKEND": url,
    }


@contextmanager
def cuts(server: Server) -> Iterator[None]:
    """Cut the worker's connections, and no others, now and then while the block runs."""
    over = threading.Event()

    def cut() -> None:
        number = 0
        while not over.wait(PAUSES[number % len(PAUSES)]):
            server.client.client_kill_filter(user="worker")
            number += 1

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_celerys_own_tests_pass_while_connections_are_cut(directory: Path, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        rights = {"keys": ["*"], "channels": ["*"], "categories": ["+@all"]}
        server.client.acl_setuser("worker", enabled=True, passwords=["+pw"], **rights)
        with worker(directory, server.port) as log, cuts(server):
            done = subprocess.run(
                [
                    *(made(OWN), "-m", "pytest", "-q", "-p", "celery.contrib.pytest"),
                    *("-p", "no:cacheprovider", "--tb=short", "-k", CHOSEN),
                    "t/integration/test_canvas.py",
                ],
                cwd=directory,
                env=environment(directory, server.port),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-4000:]
        assert log.read_text().count("connection to broker lost") >= 5, "nothing was cut"
