"""Settling one host, on a directory and a systemd of the test's own."""

from __future__ import annotations

import fcntl
import getpass
import grp
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from fleet_control import settle as module
from fleet_control.settle import Report, SettleError, Settler
from fleet_control.wanted import parse

from tests.unit.control.fake_systemd import FakeSystemd, FakeUnit

ME = getpass.getuser()
MY_GROUP = grp.getgrgid(os.getgid()).gr_name
UNIT = "shop-worker@a.service"


class Host:
    """A host below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.systemd = FakeSystemd()
        self.units = root / "units"
        self.units.mkdir()
        self.marks = root / "marks"

    def path(self, name: str) -> str:
        return str(self.root / name)

    def file(self, name: str, content: str, **more: Any) -> dict[str, Any]:
        return {"dest": self.path(name), "content": content, "owner": ME, "group": MY_GROUP, **more}

    def settler(self, wanted: dict[str, Any], **options: Any) -> Settler:
        return Settler(
            parse(wanted),
            runner=self.systemd,
            marks=self.marks,
            unit_directory=f"{self.units}/",
            sleep=self.systemd.sleep,
            clock=self.systemd.clock,
            **options,
        )

    def settle(self, wanted: dict[str, Any], *, apply: bool = True, **options: Any) -> Report:
        settler = self.settler(wanted, **options)
        settler.settle_files()
        settler.plan_units()
        if apply:
            settler.apply()
        return settler.report

    def tree(self) -> dict[str, str]:
        """Every path with its content, its target, or nothing for a directory."""
        return {
            str(path.relative_to(self.root)): f"-> {os.readlink(path)}"
            if path.is_symlink()
            else path.read_text()
            if path.is_file()
            else "/"
            for path in sorted(self.root.rglob("*"))
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# --- files -------------------------------------------------------------------------------------------


def test_files_are_written_with_their_modes_and_again_only_on_difference(host: Host) -> None:
    wanted = {
        "directories": [{"path": host.path("d"), "owner": ME, "group": MY_GROUP, "mode": "0750"}],
        "files": [host.file("d/a", "one\n", mode="0640"), host.file("d/b", "two\n")],
        "links": [{"path": host.path("d/l"), "target": "../releases/1"}],
    }
    report = host.settle(wanted)
    assert host.tree() == {
        "d": "/",
        "d/a": "one\n",
        "d/b": "two\n",
        "d/l": "-> ../releases/1",
        "units": "/",
    }
    assert (mode(host.path("d")), mode(host.path("d/a"))) == (0o750, 0o640)
    assert report.changed == [host.path(name) for name in ("d", "d/a", "d/b", "d/l")]
    before = {name: os.lstat(host.path(name)).st_ino for name in ("d/a", "d/b", "d/l")}

    assert host.settle(wanted).changed == []
    assert {name: os.lstat(host.path(name)).st_ino for name in before} == before

    os.chmod(host.path("d/a"), 0o644)
    assert host.settle(wanted).changed == [host.path("d/a")]
    assert mode(host.path("d/a")) == 0o640


def test_a_file_is_replaced_never_written_to(host: Host) -> None:
    # Whoever reads the old file goes on reading the old file; and no reader meets half of the new one.
    host.settle({"files": [host.file("a", "old\n")]})
    with open(host.path("a")) as reader:
        host.settle({"files": [host.file("a", "new\n")]})
        assert reader.read() == "old\n"
    assert host.tree() == {"a": "new\n", "units": "/"}


def test_a_file_is_never_readable_by_others_before_it_has_its_mode(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    replace = os.replace

    def spy(source: str, target: Any) -> None:
        seen.append(mode(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    host.settle({"files": [host.file("key", "secret\n", mode="0600", secret=True)]})
    assert seen == [0o600]


@pytest.mark.parametrize("failing", ["fchown", "fsync", "replace"])
def test_a_write_that_fails_leaves_nothing_behind(
    host: Host, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    host.settle({"files": [host.file("a", "old\n")]})
    wanted = {"files": [host.file("b", "b\n"), host.file("a", "new\n")]}
    before = host.tree()
    real = getattr(os, failing)

    def fail(*args: Any) -> None:
        # Only once: what is taken back must not need luck.
        monkeypatch.setattr(os, failing, real)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        host.settle(wanted)
    assert host.tree() == before


def test_the_diff_shows_files_but_no_secret(host: Host) -> None:
    host.settle({"files": [host.file("p", "p1\n"), host.file("s", "hush1\n", secret=True)]})
    wanted = [host.file("p", "p2\n"), host.file("s", "hush2\n", secret=True)]
    report = host.settle({"files": [*wanted, host.file("t", "hush3\n", secret=True)]})
    assert report.diff[0] == {
        "before_header": host.path("p"),
        "after_header": host.path("p"),
        "before": "p1\n",
        "after": "p2\n",
    }
    assert [(d["before"], d["after"]) for d in report.diff[1:]] == [
        ("<secret>\n", "<secret, changed>\n"),
        ("", "<secret, changed>\n"),
    ]
    assert "hush" not in repr(report)


def test_a_file_that_nobody_edits_is_not_printed(host: Host) -> None:
    report = host.settle({"files": [host.file("lib.py", "a long text\n", diff=False)]})
    assert report.changed == [host.path("lib.py")]
    assert "a long text" not in repr(report.diff)


@pytest.mark.parametrize("kind", ["files", "directories", "links"])
def test_what_is_of_another_kind_is_left_alone(host: Host, kind: str) -> None:
    path = Path(host.path("x"))
    (path.touch if kind == "directories" else path.mkdir)()
    item: dict[str, Any] = {
        "files": host.file("x", ""),
        "directories": {"path": host.path("x"), "owner": ME, "group": MY_GROUP},
        "links": {"path": host.path("x"), "target": "y"},
    }[kind]
    with pytest.raises(SettleError, match="move it away and run again"):
        host.settle({kind: [item]})


def test_a_link_in_the_place_of_a_file_is_not_followed(host: Host) -> None:
    Path(host.path("passwd")).write_text("root\n")
    os.symlink("passwd", host.path("a"))
    with pytest.raises(SettleError, match="is not a regular file"):
        host.settle({"files": [host.file("a", "mine\n")]})
    assert Path(host.path("passwd")).read_text() == "root\n"


def test_an_unknown_owner_is_named(host: Host) -> None:
    wanted = {"files": [{**host.file("a", ""), "owner": "no-such-user"}]}
    with pytest.raises(SettleError, match=r"no such user or group on this host: .*no-such-user"):
        host.settle(wanted)
    assert host.settle(wanted, check=True).changed == [host.path("a")]


def test_a_missing_directory_is_named(host: Host) -> None:
    with pytest.raises(SettleError, match=r"no/a: its directory does not exist"):
        host.settle({"files": [host.file("no/a", "")]})


# --- a daemon's own check ----------------------------------------------------------------------------


def checked(host: Host, *files: dict[str, Any]) -> dict[str, Any]:
    return {
        "files": list(files),
        "checks": [{"command": ["nginx", "-t"], "files": [host.path("*.conf")]}],
    }


def test_a_check_that_refuses_takes_all_files_of_the_call_back(host: Host) -> None:
    host.settle({"files": [host.file("a.conf", "good\n", mode="0640"), host.file("c", "c1\n")]})
    before = host.tree()
    host.systemd.refused["nginx"] = "unknown directive in a.conf:1"
    wanted = checked(
        host,
        host.file("a.conf", "bad\n", mode="0600"),
        host.file("b.conf", "b\n"),
        host.file("c", "c2\n"),
    )
    with pytest.raises(
        SettleError, match="all files of this call are as they were: unknown directive"
    ):
        host.settle(wanted)
    assert host.tree() == before
    assert mode(host.path("a.conf")) == 0o640


def test_a_check_runs_over_what_was_just_written(host: Host) -> None:
    seen = []
    host.systemd.before = lambda command: (
        seen.append(Path(host.path("a.conf")).read_text()) if command == "nginx -t" else None
    )
    host.settle(checked(host, host.file("a.conf", "new\n")))
    assert seen == ["new\n"]


def test_a_check_runs_for_its_files_only(host: Host) -> None:
    host.settle(checked(host, host.file("a.conf", "x\n"), host.file("other", "x\n")))
    host.systemd.commands.clear()
    host.settle(checked(host, host.file("a.conf", "x\n"), host.file("other", "y\n")))
    assert host.systemd.did() == []


# --- users -------------------------------------------------------------------------------------------


def test_users_are_made_where_they_are_missing(host: Host) -> None:
    wanted = {"sysusers": [host.file("sysusers.d/shop.conf", "u no-such-user-1 -\n")]}
    host.settle(wanted)
    # The fake makes nobody, so the next run tries again although the file is as it should be.
    host.settle(wanted)
    assert host.systemd.did() == [f"systemd-sysusers {host.path('sysusers.d/shop.conf')}"] * 2

    host.systemd.commands.clear()
    there = {"sysusers": [host.file("sysusers.d/me.conf", f"# x\nu {ME} -\ng {MY_GROUP} -\n")]}
    host.settle(there)
    host.settle(there)
    assert len(host.systemd.did()) == 1


def test_users_that_are_refused_are_an_error(host: Host) -> None:
    host.systemd.refused["systemd-sysusers"] = "Invalid user name"
    with pytest.raises(SettleError, match=r"systemd-sysusers refused .*: Invalid user name"):
        host.settle({"sysusers": [host.file("s.conf", "u 1 -\n")]})


# --- units: restarts follow need ---------------------------------------------------------------------


def unit(host: Host, **more: Any) -> dict[str, Any]:
    """A worker that read a file and resolved a link at its start."""
    return {
        "name": UNIT,
        "files": [host.path("a.env")],
        "links": [host.path("pin")],
        "timeout": 30,
        **more,
    }


def worker(host: Host, env: str = "A=1\n", release: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "files": [host.file("a.env", env), host.file("units/shop-worker@.service", "[Service]\n")],
        "links": [{"path": host.path("pin"), "target": f"releases/{release}"}],
        "units": [unit(host, **more)],
    }


@pytest.fixture
def running(host: Host) -> Host:
    """A host on which the worker of `worker()` was settled; it has a drop-in of its user's."""
    fragment, drop_in = f"{host.units}/shop-worker@.service", f"{host.units}/{UNIT}.d/user.conf"
    os.mkdir(f"{host.units}/{UNIT}.d")
    Path(drop_in).write_text("[Service]\nNice=5\n")
    host.systemd.add(UNIT, enabled=False, FragmentPath=fragment, DropInPaths=drop_in)
    host.settle(worker(host))
    assert host.systemd.units[UNIT].state["ActiveState"] == "active"
    host.systemd.commands.clear()
    return host


def test_a_first_run_reloads_enables_and_starts(host: Host) -> None:
    report = host.settle(worker(host))
    assert host.systemd.did() == [
        "systemctl daemon-reload",
        f"systemctl enable --quiet {UNIT}",
        f"systemctl start --no-block {UNIT}",
    ]
    assert [(p.unit, p.action, p.why) for p in report.done] == [(UNIT, "start", "it is inactive")]
    assert mode(str(host.marks)) == 0o700
    assert mode(str(host.marks / f"{UNIT}.json")) == 0o600


def test_a_second_run_does_nothing(running: Host) -> None:
    report = running.settle(worker(running))
    assert (report.changed, report.pending, report.done) == ([], [], [])
    assert running.systemd.did() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"env": "A=2\n"}, "a.env"),
        ({"release": "2"}, "pin"),
        ({"values": {"x": 1}}, "values"),
    ],
    ids=["file", "link", "value"],
)
def test_a_difference_restarts_once(running: Host, change: dict[str, Any], why: str) -> None:
    report = running.settle(worker(running, **change))
    assert running.systemd.did("restart") == [f"systemctl restart --no-block {UNIT}"]
    assert report.done[0].why.endswith(why)
    running.systemd.commands.clear()
    assert running.settle(worker(running, **change)).done == []
    assert running.systemd.did() == []


@pytest.mark.parametrize("name", ["shop-worker@.service", f"{UNIT}.d/user.conf"])
def test_the_unit_file_and_the_users_drop_in_count_as_well(running: Host, name: str) -> None:
    running.systemd.units[UNIT].state["NeedDaemonReload"] = "yes"
    (running.units / name).write_text("[Service]\nNice=6\n")
    wanted = worker(running)
    wanted["files"].pop()
    running.settle(wanted)
    assert running.systemd.did() == [
        "systemctl daemon-reload",
        f"systemctl restart --no-block {UNIT}",
    ]


def test_a_drop_in_that_went_away_restarts(running: Host) -> None:
    running.systemd.units[UNIT].state["DropInPaths"] = ""
    report = running.settle(worker(running))
    assert report.done[0].why == f"changed: {running.units}/{UNIT}.d/user.conf"


class Killed(BaseException):
    """Nothing of Ansible is left after a kill."""


@pytest.mark.parametrize("moment", ["daemon-reload", "show", "restart", "after restart"])
def test_a_run_that_is_killed_is_finished_by_the_next(running: Host, moment: str) -> None:
    def kill(command: str) -> None:
        late = any(c.startswith("systemctl restart") for c in running.systemd.commands[:-1])
        if late if moment == "after restart" else f"systemctl {moment}" in command:
            raise Killed

    running.systemd.before = kill
    wanted = worker(running, env="A=2\n")
    wanted["files"][1]["content"] = "[Service]\nNice=1\n"
    with pytest.raises(Killed):
        running.settle(wanted)
    assert Path(running.path("a.env")).read_text() == "A=2\n"

    running.systemd.before = lambda command: None
    running.systemd.units[UNIT].state["NeedDaemonReload"] = "yes"
    running.systemd.commands.clear()
    report = running.settle(wanted)
    assert [p.action for p in report.done] == ["restart"]
    assert running.settle(wanted).done == []


def test_a_change_that_is_taken_back_restarts_nothing(running: Host) -> None:
    running.settle(worker(running, env="A=2\n"), apply=False)
    report = running.settle(worker(running))
    assert report.changed == [running.path("a.env")]
    assert (report.pending, running.systemd.did("restart")) == ([], [])


def test_a_change_that_is_taken_back_after_an_attempt_restarts(running: Host) -> None:
    """The attempt has put it on disk, and a crash since then may have started the process with it."""

    def kill(command: str) -> None:
        if "systemctl restart" in command:
            raise Killed

    running.systemd.before = kill
    with pytest.raises(Killed):
        running.settle(worker(running, release="2"))
    running.systemd.before = lambda command: None
    assert [p.action for p in running.settle(worker(running)).done] == ["restart"]


def test_what_changes_while_the_process_starts_is_not_taken_as_known_to_it(running: Host) -> None:
    def someone(command: str) -> None:
        if command.startswith("systemctl restart"):
            Path(running.path("a.env")).write_text("A=3\n")

    running.systemd.before = someone
    running.settle(worker(running, env="A=2\n"))
    running.systemd.before = lambda command: None
    assert [p.action for p in running.settle(worker(running, env="A=3\n")).done] == ["restart"]


def test_without_a_mark_or_with_a_broken_one_it_is_restarted(running: Host) -> None:
    mark = running.marks / f"{UNIT}.json"
    for damage in (mark.unlink, lambda: mark.write_text("{"), lambda: mark.write_text("[]")):
        damage()
        report = running.settle(worker(running))
        assert [p.why for p in report.done] == ["it was never started by this inventory"]


def test_a_mark_holds_hashes_not_values(host: Host) -> None:
    host.settle(worker(host, env="PASSWORD=hush\n", values={"password": "hush"}))
    noted = (host.marks / f"{UNIT}.json").read_text()
    assert "hush" not in noted
    assert set(json.loads(noted)) == {host.path("a.env"), host.path("pin"), "values"}


def test_force_restarts_what_does_not_differ(running: Host) -> None:
    report = running.settle({"units": [unit(running)]}, force=True)
    assert [(p.action, p.why) for p in report.done] == [("restart", "it was asked for")]


def test_a_reload_takes_the_change_up_without_a_restart(running: Host) -> None:
    running.settle(worker(running, env="A=2\n", on_change="reload"))
    assert running.systemd.did("reload", "restart") == [f"systemctl reload {UNIT}"]
    assert running.settle(worker(running, env="A=2\n", on_change="reload")).done == []


def test_on_change_nothing(running: Host) -> None:
    assert running.settle(worker(running, env="A=2\n", on_change="nothing")).done == []
    running.systemd.units[UNIT].state["ActiveState"] = "inactive"
    done = running.settle(worker(running, env="A=2\n", on_change="nothing")).done
    assert [p.action for p in done] == ["start"]


def test_a_unit_that_shall_not_run_is_stopped_once(running: Host) -> None:
    wanted = worker(running, started=False, enabled=False)
    assert [p.action for p in running.settle(wanted).done] == ["stop"]
    assert running.systemd.did() == [f"systemctl stop {UNIT}"]
    assert running.settle(wanted).done == []


# --- units: a start that does not succeed ------------------------------------------------------------


def starts_as(host: Host, *course: dict[str, str]) -> None:
    host.systemd.add(UNIT)
    host.systemd.units[UNIT].course = course


def test_a_failed_unit_is_started(host: Host) -> None:
    host.systemd.add(UNIT, ActiveState="failed", InvocationID="old", ExecMainStatus="78")
    report = host.settle(worker(host))
    assert [(p.action, p.why) for p in report.done] == [("start", "it is failed")]


def test_a_slow_start_is_waited_for(host: Host) -> None:
    starts_as(host, *[{"ActiveState": "activating"}] * 100, {"ActiveState": "active"})
    host.settle(worker(host))
    assert 19 < host.systemd.now - 1000 < 31


def test_the_old_process_drains_as_long_as_systemd_lets_it(running: Host) -> None:
    course: list[dict[str, str]] = [
        {"InvocationID": "old", "ActiveState": "deactivating", "Job": "7"},
        *[{}] * 9000,
        {"InvocationID": "new", "ActiveState": "activating", "Job": "7"},
        {"ActiveState": "active", "Job": "0"},
    ]
    fake = running.systemd.units[UNIT]
    fake.state["InvocationID"] = "old"
    fake.course = course
    running.settle(worker(running, env="A=2\n"))
    assert running.systemd.now - 1000 > 1700


def test_a_timeout_names_the_unit_its_journal_and_the_next_command(host: Host) -> None:
    waiting = {"StatusText": "waiting for broker redis1:6379: connection refused"}
    starts_as(host, {"ActiveState": "activating", "SubState": "start", **waiting})
    with pytest.raises(SettleError) as caught:
        host.settle(worker(host, hint="Is Redis up?"))
    text = str(caught.value)
    assert f"{UNIT} was not active within 30 s: it is activating (start)" in text
    assert "says “waiting for broker redis1:6379: connection refused”" in text
    assert "  KeyError: 'SECRET_KEY'" in text
    assert f"journalctl -u {UNIT} -n 100" in text
    assert text.endswith("Is Redis up?")
    # It has started with what lies on disk and may yet get ready: the next run has nothing to restart.
    assert [path.name for path in host.marks.glob("*")] == [f"{UNIT}.json"]


def test_a_crash_loop_ends_the_wait(host: Host) -> None:
    loop = [
        {
            "ActiveState": "activating",
            "SubState": "auto-restart",
            "Result": "exit-code",
            "ExecMainStatus": "1",
            "NRestarts": str(number),
            "InvocationID": f"try-{number}",
            "MainPID": "0",
            "StatusText": "what the dead process said",
        }
        for number in range(9)
    ]
    starts_as(host, *loop)
    with pytest.raises(SettleError) as caught:
        host.settle(worker(host))
    assert f"{UNIT} does not start: it is activating (auto-restart)" in str(caught.value)
    assert "result exit-code, exit status 1, restarted 3 times" in str(caught.value)
    assert "what the dead process said" not in str(caught.value)
    assert host.systemd.now - 1000 < 5


def test_a_configuration_that_no_retry_mends_ends_the_wait_at_once(host: Host) -> None:
    starts_as(
        host,
        {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}
        | {"ExecMainStatus": "78"},
    )
    with pytest.raises(SettleError, match="exit status 78"):
        host.settle(worker(host))
    assert host.systemd.now == 1000


def test_the_first_failure_leaves_the_rest_serving(host: Host) -> None:
    others = [f"shop-worker@{name}.service" for name in "bc"]
    for name in others:
        host.systemd.add(name, running=True)
    starts_as(host, {"ActiveState": "failed", "SubState": "failed", "Result": "resources"})
    wanted = worker(host)
    wanted["units"] += [{"name": name} for name in others]
    with pytest.raises(SettleError, match="result resources"):
        host.settle(wanted)
    assert host.systemd.did("restart") == []


def test_a_command_that_systemd_refuses_is_told_with_the_journal(running: Host) -> None:
    running.systemd.refused["systemctl reload"] = "Job for it failed."
    with pytest.raises(SettleError) as caught:
        running.settle(worker(running, env="A=2\n", on_change="reload"))
    assert f"{UNIT} refused `systemctl reload {UNIT}` (Job for it failed.)" in str(caught.value)
    assert "KeyError" in str(caught.value)


def test_enabling_that_fails_is_an_error(host: Host) -> None:
    host.systemd.refused["systemctl enable"] = "Unit file does not exist."
    with pytest.raises(SettleError, match=r"`systemctl enable .* failed: Unit file does not exist"):
        host.settle(worker(host))


# --- what is not in the inventory any more -----------------------------------------------------------

OLD = "shop-worker@old.service"


@pytest.fixture
def with_surplus(running: Host) -> Host:
    """A host with a second worker, which has left the inventory."""
    drop_in = running.units / f"{OLD}.d"
    drop_in.mkdir()
    (drop_in / "10-fleet.conf").write_text("[Service]\n")
    Path(running.path("worker-old.env")).write_text("A=1\n")
    os.symlink("releases/1", running.path("pin-old"))
    running.systemd.add(OLD, running=True)
    running.systemd.add("shop-worker@.service")
    running.systemd.add("other-worker@old.service", running=True)
    (running.marks / f"{OLD}.json").write_text("{}")
    return running


def owning(host: Host) -> dict[str, Any]:
    wanted = worker(host)
    wanted["owned"] = {
        "units": ["shop-worker@*.service"],
        "files": [
            host.path("worker-*.env"),
            host.path("pin-*"),
            f"{host.units}/shop-worker@*.service.d/10-fleet.conf",
        ],
    }
    return wanted


def test_a_worker_that_left_is_stopped_disabled_and_its_files_go(with_surplus: Host) -> None:
    host = with_surplus
    report = host.settle(owning(host))
    assert host.systemd.did() == [
        f"systemctl stop {OLD}",
        f"systemctl disable --quiet {OLD}",
        "systemctl daemon-reload",
    ]
    assert [(p.unit, p.why) for p in report.done] == [(OLD, "it is not in the inventory")]
    assert not [name for name in host.tree() if "old" in name]
    assert host.systemd.units["other-worker@old.service"].state["ActiveState"] == "active"


def test_files_go_only_once_the_unit_has_stopped(with_surplus: Host) -> None:
    host = with_surplus
    host.systemd.refused[f"systemctl stop {OLD}"] = "Connection reset"
    with pytest.raises(SettleError, match="Connection reset"):
        host.settle(owning(host))
    assert Path(host.path("worker-old.env")).exists()


def test_a_drop_in_of_the_users_own_stays(with_surplus: Host) -> None:
    host = with_surplus
    mine = host.units / f"{OLD}.d" / "50-mine.conf"
    mine.write_text("[Service]\nNice=5\n")
    host.settle(owning(host))
    assert sorted(path.name for path in mine.parent.iterdir()) == ["50-mine.conf"]


def test_removing_is_finished_by_the_next_run(with_surplus: Host) -> None:
    host = with_surplus

    def kill(command: str) -> None:
        if command.startswith("systemctl disable"):
            raise Killed

    host.systemd.before = kill
    with pytest.raises(Killed):
        host.settle(owning(host))
    host.systemd.before = lambda command: None
    host.settle(owning(host))
    assert host.systemd.units[OLD].state["UnitFileState"] == "disabled"
    # systemd forgets a unit that is stopped and disabled, which leaves the files alone to tell.
    del host.systemd.units[OLD]
    Path(host.path("worker-old.env")).write_text("A=1\n")
    report = host.settle(owning(host), apply=False)
    assert [p.why for p in report.pending] == ["files that are not in the inventory"]
    host.settle(owning(host))
    assert not Path(host.path("worker-old.env")).exists()
    assert host.settle(owning(host)).done == []


# --- check mode --------------------------------------------------------------------------------------


def test_check_mode_on_a_bare_host_writes_nothing_and_names_what_is_to_come(host: Host) -> None:
    wanted = owning(host)
    wanted["directories"] = [{"path": host.path("d"), "owner": "to-come", "group": "to-come"}]
    wanted["sysusers"] = [host.file("sysusers.d/shop.conf", "u to-come -\n")]
    wanted["files"] += [{**host.file("d/f", "x\n"), "owner": "to-come", "group": "to-come"}]
    wanted["checks"] = [{"command": ["nginx", "-t"], "files": ["*"]}]
    before = host.tree()
    report = host.settle(wanted, check=True)
    assert host.tree() == before
    assert host.systemd.did() == []
    assert [(p.unit, p.action) for p in report.pending] == [(UNIT, "start")]
    assert report.done == []
    for name in ("sysusers.d/shop.conf", "d", "d/f", "a.env", "pin"):
        assert host.path(name) in report.changed
    assert f"enable {UNIT}" in report.changed


def test_check_mode_on_a_settled_host_with_surplus(with_surplus: Host) -> None:
    host = with_surplus
    before = host.tree()
    wanted = owning(host)
    wanted["units"][0]["values"] = "changed"
    report = host.settle(wanted, check=True)
    assert [(p.unit, p.action) for p in report.pending] == [(UNIT, "restart"), (OLD, "stop")]
    assert host.tree() == before
    assert host.systemd.did() == []


# --- the whole ---------------------------------------------------------------------------------------


def test_two_runs_at_once_settle_one_after_the_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with module.alone(lock), open(lock, "w") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with module.alone(lock):
        pass


def test_settle_reports_what_it_did(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        module, "Settler", lambda wanted, **options: host.settler(worker(host), **options)
    )
    lock = tmp_path / "lock"
    alone = module.alone
    monkeypatch.setattr(module, "alone", lambda: alone(lock))
    assert module.settle(parse({}), check=True).done == []
    assert not lock.exists()
    assert [p.action for p in module.settle(parse({}), check=False).done] == ["start"]
    assert lock.exists()


def test_the_fake_is_asked_for_units_in_one_call(running: Host) -> None:
    wanted = worker(running)
    for number in range(50):
        name = f"shop-worker@{number}.service"
        running.systemd.units[name] = FakeUnit(
            {"ActiveState": "active", "UnitFileState": "enabled"}
        )
        wanted["units"].append({"name": name, "on_change": "nothing"})
    running.settle(wanted)
    assert len(running.systemd.commands) == 1
