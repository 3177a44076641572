"""The script that starts and stops workers' units: the files of a second instance, and its answers."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import fingerprint
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    systemd as reconcile_systemd,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    environment as desired_environment,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import workers
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.scripts import serving, turn

from celery_fleet.common import systemctl
from tests import systemd

NODE, OTHER = "a@h1", "a.next@h1"


def environment(**options: Any) -> str:
    """Return a worker's environment file as the role writes it."""
    command = workers.worker_command("app.celery", NODE, {"queues": ["q"], **options})
    variables = desired_environment.process_environment(
        "worker", "/runtime", command, {"KEY": 'a "b" $c `d` \\e'}
    )
    return desired_environment.environment_file({**variables, "CELERY_FLEET_NODE": NODE})


def arguments(text: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("CELERY_FLEET_ARGS="))
    return shlex.split(turn.unquoted(line.partition("=")[2]))


def test_a_second_instance_only_differs_in_its_name() -> None:
    before = environment(
        concurrency=4, autoscale={"min": 2, "max": 4, "wait": "30s"}, include=["a b", 'c"d']
    )
    after = turn.environment(before, NODE, OTHER)
    assert f'CELERY_FLEET_NODE="{OTHER}"' in after
    assert arguments(after) == [OTHER if word == NODE else word for word in arguments(before)]
    rest = [
        line for line in before.splitlines() if "CELERY_FLEET_" not in line or "COMPONENT" in line
    ]
    assert [line for line in after.splitlines() if line in rest] == rest


def test_a_second_instance_has_the_same_values(tmp_path: Path, files: dict[str, str]) -> None:
    """systemd only ends a line at a line feed."""
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\r\ni\nj"
    before = {"ODD": odd, "CELERY_FLEET_NODE": NODE, "CELERY_FLEET_ARGS": f"worker -n {NODE}"}
    written = desired_environment.environment_file(before).encode()
    Path(files["environment"]).write_bytes(written)
    turn.prepare(files)
    made = Path(files["other_environment"])
    assert made.read_bytes() == written.replace(NODE.encode(), OTHER.encode())
    assert f"ODD={odd}" in systemd.environment(made)


def test_a_status_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the application's, and must not pass for another property."""
    status = "x\rMainPID=1\u2028MainPID=1\x85MainPID=1\r\r"
    shown = f"MainPID=7\nStatusText={status}\nResult=success\n"
    program = ("printf", "%s", shown)
    assert turn.run(*program).stdout == shown
    assert serving.run(*program) == shown
    assert reconcile_systemd.run(program).output == shown
    monkeypatch.setattr(turn, "run", lambda *_: subprocess.CompletedProcess([], 0, shown))
    monkeypatch.setattr(serving, "run", lambda *_: shown)
    wanted = {"MainPID": "7", "StatusText": status, "Result": "success"}
    assert turn.states(["a"]) == serving.states(["a"]) == {"a": wanted}
    assert systemctl.parse(f"Id=a\n{shown}") == [{"Id": "a", **wanted}]
    state = reconcile_systemd.parse_show("a", shown)
    assert (state.main_pid, state.status) == (7, status)


def test_options_that_two_instances_can_t_share_are_left_out() -> None:
    before = environment(statedb="/var/lib/shop/state db", purge=True, concurrency=2)
    after = arguments(turn.environment(before, NODE, OTHER))
    assert not [word for word in after if word.startswith(("--statedb", "--purge"))]
    assert "--concurrency=2" in after


@pytest.mark.parametrize(
    "text", ["", 'CELERY_FLEET_NODE="a@h1"\n', environment().replace("-n a@h1", "")]
)
def test_a_file_that_does_not_name_the_node_is_refused(text: str) -> None:
    with pytest.raises(turn.UnitCommandError, match="does not name its node a@h1"):
        turn.environment(text, NODE, OTHER)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return a worker's files, with a user's drop-in."""
    units = tmp_path / "units"
    drop_ins = units / "shop-worker@a.service.d"
    drop_ins.mkdir(parents=True)
    (drop_ins / "10-fleet.conf").write_text("[Service]\n")
    (drop_ins / "50-mine.conf").write_text("[Service]\nNice=5\n")
    (tmp_path / "worker-a.env").write_text(environment())
    os.symlink("../releases/1", tmp_path / "pin-a")
    (tmp_path / "records").mkdir()
    monkeypatch.setattr(turn, "UNITS", units)
    monkeypatch.setattr(turn, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(turn, "systemctl", lambda *words: None)
    return {
        "node": NODE,
        "other_node": OTHER,
        "unit": "shop-worker@a.service",
        "other_unit": "shop-worker@a.next.service",
        "environment": str(tmp_path / "worker-a.env"),
        "other_environment": str(tmp_path / "worker-a.next.env"),
        "pin": str(tmp_path / "pin-a"),
        "other_pin": str(tmp_path / "pin-a.next"),
        "other_state": str(tmp_path / "state-a.next"),
    }


def tree(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*")}


def test_the_files_of_a_second_instance_are_written_and_removed(
    tmp_path: Path, files: dict[str, str]
) -> None:
    before = tree(tmp_path)
    for _ in range(2):  # a killed run may have begun it
        turn.prepare(files)
    made = tree(tmp_path) - before
    assert made == {
        "units/shop-worker@a.next.service.d",
        "units/shop-worker@a.next.service.d/10-fleet.conf",
        "units/shop-worker@a.next.service.d/50-mine.conf",
        "worker-a.next.env",
        "pin-a.next",
    }
    assert os.readlink(files["other_pin"]) == "../releases/1"
    (tmp_path / "state-a.next").mkdir()
    (tmp_path / "state-a.next/drain.json").touch()
    # Otherwise the next plan would delete the record of its start.
    fingerprint.write_record(files["other_unit"], "1", {}, directory=str(tmp_path / "records"))
    for _ in range(2):
        turn.clear(files)
    assert tree(tmp_path) == before


def test_records_are_in_the_recorders_directory() -> None:
    assert str(turn.RECORDS) == fingerprint.RECORDS


def test_systemd_is_reloaded_after_files_were_written_or_removed(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def systemctl(*words: str) -> None:
        drop_ins = turn.UNITS / f"{files['other_unit']}.d"
        seen.append((*words, drop_ins.is_dir() and os.path.lexists(files["other_pin"])))

    monkeypatch.setattr(turn, "systemctl", systemctl)
    turn.prepare(files)
    turn.clear(files)
    assert seen == [("daemon-reload", True), ("daemon-reload", False)]


def test_an_instance_that_can_t_be_prepared_is_an_error_in_one_line(files: dict[str, str]) -> None:
    os.unlink(files["environment"])
    with pytest.raises(turn.UnitCommandError, match=r"can't be prepared: .*worker-a.env"):
        turn.prepare(files)


RECORD = {"invocation": "abc", "running": 1, "handed_back": 2}
ODD: list[dict[str, Any]] = [
    {"invocation": 7},
    {"running": "1"},
    {"running": True},
    {"handed_back": None},
    {"handed_back": [1]},
]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps({**RECORD, "pid": 7, "ended": False}), RECORD),
        *((json.dumps({**RECORD, **odd}), None) for odd in ODD),
        *((text, None) for text in ("", "[1]", "{", "{}", "[" * 9_000, '{"running": NaN}')),
    ],
)
def test_only_a_valid_record_of_a_drain_is_read(
    tmp_path: Path, content: str, expected: Any
) -> None:
    (tmp_path / "drain.json").write_text(content)
    assert turn.record(str(tmp_path)) == expected


def test_a_record_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(json.dumps(RECORD))
    os.symlink("real", tmp_path / "drain.json")
    assert turn.record(str(tmp_path)) is None
    assert turn.record(str(tmp_path / "nowhere")) is None


def test_the_script_only_needs_the_standard_library() -> None:
    asked = {"do": [["juggle", "x"]], "units": {}, "seen": {}, "wait": 0, "journals": []}
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", host_scripts.script("turn")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert host_scripts.answer({"rc": 0, "stdout": done.stdout}) == {
        "units": {},
        "journals": {},
        "errors": ["unknown order juggle"],
        "error": "",
        "figures": {},
    }


COUNTED = {
    "counts_tasks": True,
    "bounds": [0.5],
    "tasks": [
        {
            "name": "pay",
            "queue": "a",
            "succeeded": 3,
            "failed": {"E": 1},
            "runtime": {"sum": 1.5, "buckets": [2, 1]},
        },
        {
            "name": "pay",
            "queue": "b",
            "succeeded": 1,
            "failed": {"F": 2},
            "runtime": {"sum": 0.5, "buckets": [0, 1]},
        },
        {
            "name": "mail",
            "queue": "a",
            "succeeded": 1,
            "failed": {},
            "runtime": {"sum": 9, "buckets": [0, 1]},
        },
    ],
}


NONE = {"counts": None, "bounds": []}


def test_a_worker_s_counts_are_added_up_by_task(tmp_path: Path) -> None:
    path = tmp_path / "worker-a.json"
    path.write_text(json.dumps(COUNTED))
    assert turn.counts(str(path)) == {
        "counts": {"pay": [4, 3, 2.0, [2, 2]], "mail": [1, 0, 9.0, [0, 1]]},
        "bounds": [0.5],
    }
    # An older runtime writes no bounds.
    path.write_text(json.dumps({name: one for name, one in COUNTED.items() if name != "bounds"}))
    assert turn.counts(str(path))["counts"]["pay"][:3] == [4, 3, 2.0]
    assert turn.counts(str(path))["bounds"] == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**COUNTED, "counts_tasks": False}),
        json.dumps({**COUNTED, "tasks": [{"name": "pay", "succeeded": "many", "failed": {}}]}),
        json.dumps(COUNTED) + " " * 1_000_000,
        *(
            json.dumps(COUNTED).replace(f'"{name}": {old}', f'"{name}": {number}', 1)
            for number in ("Infinity", "NaN", "1e400")
            for name, old in (("succeeded", "3"), ("sum", "1.5"))
        ),
    ],
)
def test_a_file_that_is_no_count_is_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "worker-a.json"
    path.write_text(content)
    assert turn.counts(str(path)) == NONE
    assert turn.counts(str(tmp_path / "nowhere")) == NONE
    link = tmp_path / "link"
    link.symlink_to(path)
    path.write_text(json.dumps(COUNTED))
    assert turn.counts(str(link)) == NONE


def test_the_tasks_of_a_unit_are_those_of_its_release(tmp_path: Path) -> None:
    note = tmp_path / "release.json"
    note.write_text(json.dumps({"tasks": ["pay", "mail"]}))
    counted = tmp_path / "worker-a.json"
    counted.write_text(json.dumps(COUNTED))
    asked = {"a.service": {"counts": str(counted), "note": str(note)}}
    found = turn.figures(asked, {"a.service": {"pid": 0}})["a.service"]
    assert found["tasks"] == ["pay", "mail"]
    assert found["counts"] == turn.counts(str(counted))["counts"]
    note.write_text("{}")
    assert turn.registered(str(note)) is None
    assert turn.registered(str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("line", ["0::/shop.slice/{}", "1:name=systemd:/shop.slice/{}"])
def test_the_memory_of_a_unit_is_that_of_its_control_group(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = "shop-worker@a.service"
    monkeypatch.setattr(turn, "PROC", tmp_path / "proc")
    base = tmp_path / ("systemd" if "name=" in line else "")
    monkeypatch.setattr(turn, "GROUPS", (tmp_path, tmp_path / "systemd"))
    for pid, size in ((7, 100), (8, 50)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/smaps_rollup").write_text(f"Rss: 900 kB\nPss: {size} kB\n")
    (tmp_path / "proc/7/cgroup").write_text(line.format(unit) + "\n")
    group = base / "shop.slice" / unit
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("7\n8\n9\n")
    assert turn.memory(unit, 7) == {"memory": 150 * 1024, "processes": 2}
    assert turn.memory("shop-worker@b.service", 7) == {"memory": 0, "processes": 0}
    assert turn.memory(unit, 0) == {"memory": 0, "processes": 0}


SHOWN = """LoadState=loaded
ActiveState=active
SubState=running
StatusText=consumes q
Result=success
NRestarts=1
MainPID=77
InvocationID=abc
Job=12
ExecMainStatus=0
ActiveEnterTimestampMonotonic=3500000
ActiveExitTimestampMonotonic=0
InactiveExitTimestampMonotonic=1500000"""


def test_the_state_of_a_unit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, SHOWN + "\n")
    monkeypatch.setattr(turn, "run", lambda *command: done)
    seen = turn.unit_states({"a.service": ""})["a.service"]
    assert (seen["active"], seen["pid"], seen["job"], seen["invocation"]) == (
        "active",
        77,
        True,
        "abc",
    )
    assert (seen["ready_at"], seen["starting_at"], seen["restarts"]) == (3.5, 1.5, 1)
    assert seen["drain"] is None


def test_a_systemd_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 1, "Failed to connect to bus")
    monkeypatch.setattr(turn, "run", lambda *command: done)
    with pytest.raises(turn.UnitCommandError, match="Failed to connect to bus"):
        turn.unit_states({"a.service": ""})


def test_a_command_that_fails_does_not_stop_the_following_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[tuple[str, ...]] = []

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        failed = command[-1] == "a.service" and "show" not in command
        return subprocess.CompletedProcess([], int(failed), "no" if failed else SHOWN)

    monkeypatch.setattr(turn, "run", run)
    do = [["start", "a.service"], ["start", "b.service"]]
    asked = {"do": do, "units": {"a.service": ""}, "seen": {}, "wait": 0, "journals": []}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    turn.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["errors"] == ["`systemctl start --no-block a.service` failed: no", ""]
    assert answer["units"]["a.service"]["pid"] == 77
    assert answer["error"] == ""
    assert ("systemctl", "start", "--no-block", "b.service") in commands
