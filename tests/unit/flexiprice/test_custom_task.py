"""The document's own task, called as documented, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

# The table of ticks is in PostgreSQL; a list replaces it here, without the driver.
PRELUDE = """
import json, sys, types
import app
sys.modules["psycopg"] = types.SimpleNamespace(OperationalError=type("OperationalError", (Exception,), {}))
app.db = sys.modules["app.db"] = types.ModuleType("app.db")
from app import traces
from app.celery_app import celery_app
from app.tasks import my_custom_task
ticks = []
traces.tick = lambda source, *, task_id, node: ticks.append([source, task_id, node])
"""
CALLED = """
my_custom_task.apply_async(args=["value", 42], countdown=60, expires=3600)
with celery_app.connection_for_read() as connection:
    message = connection.SimpleQueue("maintenance").get(timeout=5)
print(json.dumps({"headers": message.headers, "body": message.payload}))
"""
RUN = """
done = my_custom_task.apply(args=["value", 3], task_id="an-id").get()
print(json.dumps({"result": done, "ticks": [tick[:2] for tick in ticks]}))
"""
EXPIRED = """
from celery.worker.request import Request
my_custom_task.apply_async(args=["value", 42], countdown=60, expires=-1)
with celery_app.connection_for_read() as connection:
    message = connection.SimpleQueue("maintenance").get(timeout=5)
    request = Request(message, app=celery_app, task=my_custom_task)
    print(json.dumps({"expired": bool(request.revoked())}))
"""


def run(backend: Path, code: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + code],
        cwd=backend,
        env={
            "PATH": os.defpath,
            "PYTHONDONTWRITEBYTECODE": "1",
            "CELERY_BROKER_URL": "memory://",
            "CELERY_RESULT_BACKEND": "cache+memory://",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def sent(backend: Path) -> dict[str, Any]:
    return run(backend, CALLED)


def test_it_has_the_documented_name_and_arguments(sent: dict[str, Any]) -> None:
    assert sent["headers"]["task"] == "app.tasks.my_custom_task"
    assert sent["body"][0] == ["value", 42]


@pytest.mark.parametrize(("header", "seconds"), [("eta", 60), ("expires", 3600)])
def test_countdown_and_expiry_travel_with_the_message(
    sent: dict[str, Any], header: str, seconds: int
) -> None:
    moment = datetime.fromisoformat(sent["headers"][header])
    away = moment - datetime.now(UTC)
    assert timedelta(seconds=seconds - 30) < away <= timedelta(seconds=seconds)


def test_it_writes_its_rows(backend: Path) -> None:
    assert run(backend, RUN) == {
        "result": {"status": "success"},
        "ticks": [["value", "an-id"]] * 3,
    }


def test_an_expired_task_is_not_run(backend: Path) -> None:
    assert run(backend, EXPIRED) == {"expired": True}
