"""The web process reports one error if broker or results are away, for every exception of Celery."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The driver of the database is not needed here.
PRELUDE = """
import sys, types
sys.modules["psycopg"] = types.SimpleNamespace(OperationalError=type("OperationalError", (Exception,), {}))
import app
app.db = sys.modules["app.db"] = types.ModuleType("app.db")
from app import broker
from app.celery_app import celery_app as celery
"""
ATTEMPT = """
try:
    {call}
except broker.Unavailable as error:
    print(type(error.__cause__).__name__)
"""
# No process listens there. Timeouts are shorter than Celery's, so that the test is short.
IMPATIENT = 'celery.conf.result_backend_transport_options = {"retry_policy": {"timeout": 0.2}}\n'
RETRYING = "celery.conf.update(result_backend_always_retry=True, result_backend_max_retries=1)\n"
NOBODY = "redis://127.0.0.1:1/0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("results", "code", "call", "cause"),
    [
        (NOBODY, IMPATIENT, "broker.send_recompute(30)", "RuntimeError"),
        ("cache+memory://", "", "broker.send_recompute(30)", "OperationalError"),
        (NOBODY, "", 'broker.outcome("an-id")', "ConnectionError"),
        # As in a fleet.
        (NOBODY, RETRYING, 'broker.outcome("an-id")', "BackendGetMetaError"),
    ],
)
def test_an_outage_is_one_error(
    backend: Path, results: str, code: str, call: str, cause: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + code + ATTEMPT.format(call=call)],
        cwd=backend,
        env={
            "PATH": os.defpath,
            "PYTHONDONTWRITEBYTECODE": "1",
            "CELERY_BROKER_URL": NOBODY,
            "CELERY_RESULT_BACKEND": results,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [cause], done.stderr
