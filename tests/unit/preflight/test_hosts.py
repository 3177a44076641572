"""What the hosts show: each that can't be used is named, all at once."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from fleet_preflight.hosts import check_facts
from fleet_preflight.model import Severity

from tests.unit.preflight.inventory import ROOT

GOOD: dict[str, Any] = {
    "reachable": True,
    "reason": "",
    "uid": 0,
    "distribution": "debian",
    "distribution_version": "12",
    "distribution_name": "Debian GNU/Linux 12 (bookworm)",
    "systemd_version": 252,
    "systemd_is_init": True,
    "python_version": "3.11.2",
    "clock_offset": 0.0,
}


def test_a_good_host_passes() -> None:
    assert check_facts({"a": GOOD}, {}) == []


@pytest.mark.parametrize(
    ("change", "variable", "message", "severity"),
    [
        ({"reachable": False, "reason": "no route"}, "host", "no route", Severity.ERROR),
        ({"uid": 1000}, "ansible_become", "root", Severity.ERROR),
        ({"distribution_version": "13"}, "distribution", "not supported", Severity.ERROR),
        ({"distribution": "ubuntu"}, "distribution", "not supported", Severity.ERROR),
        ({"systemd_is_init": False}, "systemd", "process 1", Severity.ERROR),
        ({"systemd_version": 247}, "systemd", "older than 252", Severity.ERROR),
        ({"python_version": "3.9.2"}, "python", "older", Severity.ERROR),
        ({"unresolved_names": ["redis1"]}, "celery_app_broker_host", "resolve", Severity.ERROR),
        ({"active_units": ["redis-server.service"]}, "redis", "Debian's own", Severity.ERROR),
        ({"clock_offset": -90.0}, "clock", "behind", Severity.WARNING),
    ],
)
def test_a_host_that_is_refused(
    change: dict[str, Any], variable: str, message: str, severity: Severity
) -> None:
    (found,) = check_facts({"a": {**GOOD, **change}}, {})
    assert (found.variable, found.severity, found.hosts) == (variable, severity, ("a",))
    assert message in found.message


def test_the_same_of_several_hosts_is_one() -> None:
    gone = {"reachable": False, "reason": "timed out"}
    (found,) = check_facts({"a": gone, "b": GOOD, "c": gone}, {"a": "make demo", "c": "make demo"})
    assert found.hosts == ("a", "c")
    assert found.remedy == "make demo"


@pytest.mark.parametrize("facts", [None, [], {}, "x", {"reachable": True}])
def test_facts_that_are_not_there(facts: Any) -> None:
    assert check_facts({"a": facts}, {})


def test_the_probe_answers_here() -> None:
    probe = ROOT / "plugins/module_utils/fleet_preflight/probe.py"
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-c", probe.read_text(encoding="utf-8")],
        input=json.dumps(
            {
                "paths": ["/opt", "/no/such/place"],
                "names": ["localhost", "no-such-name.invalid"],
                "units": ["no-such.service"],
            }
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(answer.stdout)
    assert answer.stdout.startswith('{"clock"')
    assert facts["memory_bytes"] > 0
    assert facts["free_bytes"]["/no/such/place"] > 0
    assert facts["unresolved_names"] == ["no-such-name.invalid"]
    assert facts["active_units"] == []
    assert facts["python_version"].startswith("3.")
