"""Options of the units of the web process, beat and Flower reach a drop-in of the unit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.unit_options import (
    UNIT,
    unit_lines,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import rendering

from tests import systemd
from tests.unit.preflight import oracle
from tests.unit.preflight.inventory import problems, valid

OPTIONS: dict[str, Any] = {
    "memory_max": "1G",
    "memory_high": "900M",
    "cpu_quota": "150%",
    "tasks_max": "64",
    "nice": 5,
    "oom_score_adjust": 100,
    "environment": {"SOME_SWITCH": "on"},
    "memory_deny_write_execute": False,
    "proc_subset_pid": False,
    "read_write_paths": ["/srv/my media"],
    "umask": "0027",
    "requires_mounts_for": ["/srv/my media"],
    "unit_lines": {"LimitNOFILE": 65536, "SystemCallFilter": ["mbind", "~ptrace"], "PrivateTmp": False},
}  # fmt: skip
SERVICE = """\
MemoryMax=1G
MemoryHigh=900M
CPUQuota=150%
TasksMax=64
Nice=5
OOMScoreAdjust=100
MemoryDenyWriteExecute=no
ProcSubset=all
ReadWritePaths="/srv/my media"
UMask=0027
LimitNOFILE=65536
SystemCallFilter=mbind
SystemCallFilter=~ptrace
PrivateTmp=no
"""
# variable, part of the plan, unit, environment file
UNITS = [
    ("celery_producer_web", "celery_producer", "web"),
    ("celery_beat_unit", "celery_beat", "beat"),
    ("flower_unit", "flower", "flower"),
]


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    with rendering.compiled_once():
        yield


def without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if line.strip() and line[0] != "#")


@pytest.mark.parametrize(("variable", "part", "name"), UNITS)
def test_options_are_in_a_drop_in_that_is_removed_without_them(
    tmp_path: Path, variable: str, part: str, name: str
) -> None:
    everywhere = valid(tmp_path / "source")
    path = f"/etc/systemd/system/shop-{name}.service.d/10-fleet.conf"
    given = {**everywhere, variable: {**everywhere.get(variable, {}), **OPTIONS}}
    assert problems(given) == []
    wanted = oracle.wanted_by(given, part)
    files = {item["dest"]: item["content"] for item in wanted["files"]}
    mounts = '[Unit]\nRequiresMountsFor="/srv/my media"\n'
    assert without_comments(files[path]) == f"[Service]\n{SERVICE}{mounts}"
    assert {"path": path.rpartition("/")[0]} in wanted["directories"]
    assert 'SOME_SWITCH="on"\n' in files[f"/etc/celery-fleet/shop/{name}.env"]
    before = oracle.wanted_by(everywhere, part)
    assert path not in {item["dest"] for item in before["files"]}
    assert path in before["owned"]["files"]
    surplus = oracle.wanted_by(everywhere, "celery_runtime_surplus")
    assert path not in surplus["owned"]["files"]


def test_a_worker_has_the_same_options(tmp_path: Path) -> None:
    everywhere = valid(tmp_path / "source")
    given = {**everywhere, "celery_worker_defaults": OPTIONS}
    assert problems(given) == []
    files = oracle.wanted_by(given, "celery_worker")["files"]
    path = "/etc/systemd/system/shop-worker@discounts.service.d/10-fleet.conf"
    (text,) = (item["content"] for item in files if item["dest"] == path)
    assert without_comments(text).endswith(f'{SERVICE}[Unit]\nRequiresMountsFor="/srv/my media"\n')


def test_systemd_accepts_all_directives(tmp_path: Path) -> None:
    unit = tmp_path / "one.service"
    sections = ("Service", "Unit")
    text = ["[Service]", "ExecStart=/bin/true"]
    for name in sections:
        found = [item["line"] for item in unit_lines(UNIT, OPTIONS) if item["section"] == name]
        text += [f"[{name}]", *found]
    unit.write_text("\n".join([*text, ""]))
    done = systemd.analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.stderr, done.returncode) == ("", 0)
