"""What the hosts show: each that can't be used is named, all at once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fleet_preflight.hosts import check_facts
from fleet_preflight.model import Severity

from tests.unit.preflight.inventory import ROOT

PROBE = ROOT / "plugins/module_utils/fleet_preflight/probe.py"
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
        ({"distribution_version": "11"}, "distribution", "not supported", Severity.ERROR),
        ({"distribution_version": "14"}, "distribution", "not supported", Severity.ERROR),
        ({"distribution": "ubuntu"}, "distribution", "not supported", Severity.ERROR),
        ({"systemd_is_init": False}, "systemd", "process 1", Severity.ERROR),
        ({"systemd_version": 247}, "systemd", "older than 252", Severity.ERROR),
        ({"python_version": "3.9.2"}, "python", "older", Severity.ERROR),
        ({"unresolved_names": ["redis1"]}, "celery_app_broker_host", "resolve", Severity.ERROR),
        ({"active_units": ["redis-server.service"]}, "redis", "Debian's own", Severity.ERROR),
        ({"clock_offset": -90.0}, "clock", "behind", Severity.WARNING),
        ({"redis_flavor": "valkey"}, "redis_flavor", "in no package", Severity.ERROR),
        (
            {"redis_flavor": "redis", "redis_data": {"/data/shop-broker": "valkey"}},
            "redis_flavor",
            "/data/shop-broker: that is valkey's",
            Severity.ERROR,
        ),
    ],
)
def test_a_host_that_is_refused(
    change: dict[str, Any], variable: str, message: str, severity: Severity
) -> None:
    (found,) = check_facts({"a": {**GOOD, **change}}, {})
    assert (found.variable, found.severity, found.hosts) == (variable, severity, ("a",))
    assert message in found.message


@pytest.mark.parametrize(
    "change",
    [
        {"distribution_version": "13"},
        {"redis_flavor": "valkey", "distribution_version": "13"},
        {"redis_flavor": "valkey", "packages": ["valkey-server"]},
        {"redis_flavor": "redis", "redis_data": {"/data/shop-broker": "redis"}},
        # A user of neither: a directory that somebody has made, which systemd gives to the server.
        {"redis_flavor": "redis", "redis_data": {"/data/shop-broker": "root"}},
    ],
)
def test_a_host_that_serves(change: dict[str, Any]) -> None:
    assert check_facts({"a": {**GOOD, **change}}, {}) == []


def test_the_same_of_several_hosts_is_one() -> None:
    gone = {"reachable": False, "reason": "timed out"}
    (found,) = check_facts({"a": gone, "b": GOOD, "c": gone}, {"a": "make demo", "c": "make demo"})
    assert found.hosts == ("a", "c")
    assert found.remedy == "make demo"


@pytest.mark.parametrize("facts", [None, [], {}, "x", {"reachable": True}])
def test_facts_that_are_not_there(facts: Any) -> None:
    assert check_facts({"a": facts}, {})


def test_the_probe_answers_here(tmp_path: Path) -> None:
    for name, text in (("a", '{"format": 1, "app": "a"}'), ("b", "[]"), ("c", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fleet.json").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = probed(tmp_path, server.getsockname()[1])
    assert facts["memory_bytes"] > 0
    assert facts["free_bytes"]["/no/such/place"] > 0
    assert facts["unresolved_names"] == ["no-such-name.invalid"]
    assert facts["active_units"] == []
    assert facts["python_version"].startswith("3.")
    assert [mark.get("app") for mark in facts["marks"]] == ["a", None, None]
    assert [bool(mark.get("error")) for mark in facts["marks"]] == [False, True, True]
    assert facts["files"] == [f"{tmp_path}/a/fleet.json"]
    assert facts["redis_data"] == {str(tmp_path): tmp_path.owner()}
    (listeners,) = facts["listeners"].values()
    with open("/proc/self/comm", encoding="utf-8") as stream:
        assert [who["command"] for who in listeners] == [stream.read().strip()]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("12:cpu:/x.service\n1:name=systemd:/docker/0/shop.slice/redis@shop-broker.service\n0::/\n",
         "redis@shop-broker.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n", "x.scope"),
        ("0::/\n", "no unit"),
        ("", "no unit"),
    ],
)  # fmt: skip
def test_the_unit_of_a_process(text: str, unit: str) -> None:
    source = PROBE.read_text(encoding="utf-8").removesuffix("main()\n")
    names: dict[str, Any] = {}
    exec(compile(source, str(PROBE), "exec"), names)  # noqa: S102 - it is no module: it runs when it is read
    assert names["unit_of"](text) == unit


def probed(tmp_path: Path, port: int) -> dict[str, Any]:
    """What the probe says of this machine."""
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-c", PROBE.read_text(encoding="utf-8")],
        input=json.dumps(
            {
                "paths": ["/opt", "/no/such/place"],
                "names": ["localhost", "no-such-name.invalid"],
                "units": ["no-such.service"],
                "marks": f"{tmp_path}/*/fleet.json",
                "ports": [port, 1],
                "files": [f"{tmp_path}/a/fleet.json", f"{tmp_path}/none"],
                "data": [str(tmp_path), f"{tmp_path}/none"],
            }
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith('{"clock"')
    facts: dict[str, Any] = json.loads(answer.stdout)
    return facts
