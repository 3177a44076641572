"""Options of the units of the web process, beat and Flower reach a drop-in of the unit."""

from __future__ import annotations

import subprocess
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
MOUNT = '+/usr/bin/env -i /usr/bin/systemd-run --quiet --collect "--property=RequiresMountsFor={}" /usr/bin/true'
MOUNTED = MOUNT.format(r"\"/srv/my media\"")
UNITS_OF_MOUNTS = r"srv.mount srv-my\x20media.mount"
DROP_IN = SERVICE.replace("LimitNOFILE", f"ExecStartPre={MOUNTED}\nLimitNOFILE")
DROP_IN += f"[Unit]\nAfter={UNITS_OF_MOUNTS}\nPartOf={UNITS_OF_MOUNTS}\n"
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
    assert without_comments(files[path]) == f"[Service]\n{DROP_IN}"
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
    assert without_comments(text).endswith(DROP_IN)


def test_a_mount_that_fails_at_boot_is_tried_again() -> None:
    """RequiresMountsFor= and Requires= of the unit itself would leave it down, because Restart= is not for that."""
    wanted = {"requires_mounts_for": ["/srv/media/../files/", '/mnt/100%-$x\\"y']}
    found = [item["line"].partition("=")[::2] for item in unit_lines(UNIT, wanted)]
    (command,) = (value for name, value in found if name == "ExecStartPre")
    # A failure counts: there is no `-`.
    assert command == MOUNT.format(r"\"/srv/files\" \"/mnt/100%%-$$x\\\\\\\"y\"")
    names = r"mnt.mount mnt-100\x25\x2d\x24x\x5c\x22y.mount srv.mount srv-files.mount"
    # Stopped by the mount, and before it.
    assert {"After": names, "PartOf": names}.items() <= dict(found).items()
    assert not {"Requires", "RequiresMountsFor", "BindsTo"} & {name for name, _ in found}


def test_the_root_is_always_mounted() -> None:
    assert unit_lines(UNIT, {"requires_mounts_for": ["/"]}) == unit_lines(UNIT, {})


@pytest.mark.parametrize(
    "path", ["/srv/my-media", "/srv/mé dia/.x", "/.hidden/a:b_c.d", "/srv/a\\b"]
)
def test_names_of_mounts_are_systemds(path: str) -> None:
    lines = [item["line"] for item in unit_lines(UNIT, {"requires_mounts_for": [path]})]
    (after,) = (line.removeprefix("After=") for line in lines if line.startswith("After="))
    escape = ["systemd-escape", "--path", "--suffix=mount", path]
    assert (
        after.split()[-1]
        == subprocess.run(escape, capture_output=True, text=True, check=True).stdout.strip()
    )


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
