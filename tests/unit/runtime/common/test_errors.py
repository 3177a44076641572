"""What an operator's command prints if Redis can't be reached: a line, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

RAISE = """
import os
from celery_fleet.common import errors
errors.tell_of_connections(os.environ)
from kombu.exceptions import OperationalError
raise {error}
"""


def ran(component: str, error: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CELERY_FLEET_COMPONENT": component}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", RAISE.format(error=error)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


LOST = (
    "OperationalError('Error 111 connecting to rediss://operator:s3cr3tpw@redis1:6379. Refused.')"
)


def test_an_operator_reads_one_line_without_the_password() -> None:
    done = ran("operator", LOST)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Redis does not answer as it should: Error 111 connecting to")
    assert "redis1:6379" in line
    assert "s3cr3tpw" not in line


@pytest.mark.parametrize(
    ("component", "error"), [("operator", "ValueError('x')"), ("producer", LOST)]
)
def test_any_other_error_and_any_other_process_is_left_alone(component: str, error: str) -> None:
    assert "Traceback" in ran(component, error).stderr
