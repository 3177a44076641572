from __future__ import annotations

import json

import pytest

from tests.unit.runtime.conftest import Run, document

SETTINGS = document("operator")


@pytest.mark.parametrize(
    ("program", "request_", "why"),
    [
        ("ops.probe", "{", "JSONDecodeError: Expecting property name"),
        ("ops.probe", [1], "AttributeError: "),
        ("ops.probe", {"nodes": {}}, "KeyError: 'settings'"),
        ("ops.probe", {"nodes": 3}, "TypeError: "),
        ("ops.probe", {"settings": SETTINGS, "nodes": {"w@h": {"pids": 1}}}, "TypeError: "),
        ("ops.probe", {"settings": SETTINGS, "schedule": {"e": {"task": "sum"}}}, "TypeError: "),
        ("ops.probe", {"settings": SETTINGS, "timeout": "s3cr3tpw"}, "ValueError: "),
        ("ops.questions", {"question": "lengths", "timeout": None}, "TypeError: "),
        ("ops.tasks", "{", "JSONDecodeError: Expecting property name"),
        ("ops.databases", {"app": "shop"}, "TypeError: "),
        ("release.check", "{", "JSONDecodeError: Expecting property name"),
        ("release.check", {"settings": {}}, "TypeError: "),
    ],
)
def test_a_damaged_request_is_one_line(run: Run, program: str, request_: object, why: str) -> None:
    text = request_ if isinstance(request_, str) else json.dumps(request_)
    done = run("-m", f"celery_fleet.{program}", stdin=text)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"the request is damaged ({why}")
    assert line.endswith("): run site.yml, so that the control node and this host have one version")
    assert "s3cr3tpw" not in line


def test_a_mistake_in_the_settings_is_one_line(run: Run) -> None:
    done = run("-m", "celery_fleet.ops.probe", stdin=json.dumps({"settings": {"format": 9}}))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("settings: has format 9, this runtime reads 1; run site.yml")
