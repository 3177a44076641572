"""Reconciling one host, on a directory and with a fake systemd."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import grp
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    fingerprint,
    reconciler,
    surplus,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    lock as reconcile_lock,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
    parse,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import (
    Files,
    replace,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import (
    Host as Reached,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reconciler import (
    HostReconciler,
    ReconcileOptions,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    Command,
    RedisError,
    RedisUntrustedError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    HostReport,
    PendingAction,
    ReconcileError,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import environment, workers

from tests.programs import required
from tests.support.fake_systemd import FakeSystemd, FakeUnit
from tests.support.host_paths import host_paths

ME = getpass.getuser()
MY_GROUP = grp.getgrgid(os.getgid()).gr_name
UNIT = "shop-worker@a.service"


class FakeRedis:
    """A server that records commands.

    Attributes:
        users: Its answers to `ACL GETUSER`.
        refused: Beginnings of commands that fail, with their errors.
        replication: Its answers to `INFO replication`, one after another; the last one stays.
        lists: The lengths of its lists.
        primaries: The ports of the primaries that a Sentinel names, one after another; the last one stays.
        untrusted: Hosts with a certificate that is not valid here.
        before: Called with each command before it is carried out.
    """

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.users: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.replication = [""]
        self.lists: dict[str, int] = {}
        self.primaries = [6379]
        self.untrusted: set[str] = set()
        self.before: Callable[[str], None] = lambda command: None

    def add(self, name: str, password: str, commands: str) -> None:
        """Add a user to the server."""
        self.users[name] = {
            "flags": ["on"],
            "passwords": [sha(password)],
            "commands": f"-@all {commands}",
            "keys": "",
            "channels": "",
            "selectors": [],
        }

    def __call__(self, access: RedisAccess, commands: Sequence[Command]) -> list[object]:
        if access.host in self.untrusted:
            raise RedisUntrustedError(f"Redis at {access.host}: certificate verify failed")
        return [self._answer(list(command)) for command in commands]

    def _answer(self, words: list[str]) -> object:
        self.commands.append(" ".join(words))
        self.before(" ".join(words))
        for beginning, answer in self.refused.items():
            if " ".join(words).startswith(beginning):
                raise RedisError(answer)
        if words == ["PING"]:
            return "PONG"
        if words[:2] == ["SENTINEL", "GET-MASTER-ADDR-BY-NAME"]:
            port = self.primaries.pop(0) if self.primaries[1:] else self.primaries[0]
            return ["redis1", str(port)]
        if words == ["INFO", "replication"]:
            return self.replication.pop(0) if self.replication[1:] else self.replication[0]
        if words[:2] == ["ACL", "GETUSER"]:
            return self.users.get(words[2])
        if words[0] == "SCAN":
            return ["0", list(self.lists)]
        if words[0] == "LLEN":
            return self.lists[words[1]]
        return "OK"


class Host:
    """A host below a directory; `state` contains reconcile's own files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.units = root / "units"
        self.units.mkdir()
        self.systemd = FakeSystemd(self.units)
        self.systemd.on_start = self.record
        self.redis = FakeRedis()
        for release in ("1", "2"):
            self.build(release)
        self.paths = host_paths(root)

    def build(self, release: str, note: str = '{"tasks": ["a.x"]}') -> None:
        """Make a release like the build."""
        path = self.root / "releases" / release
        path.mkdir(parents=True)
        (path / "release.json").write_text(note)
        self.python(release, "python3.13", "python3.13")

    def python(self, release: str, host: str, packages: str) -> None:
        """Make the host's Python, as the virtualenv finds it, and the directory with its packages."""
        programs = self.root / "state/programs"
        programs.mkdir(parents=True, exist_ok=True)
        (programs / host).touch(mode=0o755)
        venv = self.root / "releases" / release / "venv"
        shutil.rmtree(venv, ignore_errors=True)
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").symlink_to(programs / host)
        (venv / "lib" / packages).mkdir(parents=True)

    def path(self, name: str) -> str:
        return str(self.root / name)

    def file(self, name: str, content: str | None, **more: Any) -> dict[str, Any]:
        return {"dest": self.path(name), "content": content, "owner": ME, "group": MY_GROUP, **more}

    def record(self, unit: str, state: dict[str, str]) -> None:
        """Do what the recorder does when one of our services starts."""
        if not Path(self.paths.recorder).exists() or not unit.endswith(".service"):
            return
        listed = fingerprint.read_object(f"{self.paths.lists}/{unit}.json")
        taken = fingerprint.taken(unit, state, listed, fingerprint.read_key(self.paths.key))
        fingerprint.write_record(unit, state["InvocationID"], *taken, directory=self.paths.records)

    def recorded(self, unit: str) -> dict[str, Any]:
        return dict(fingerprint.read_object(f"{self.paths.records}/{unit}.json"))

    def reconciler(
        self, *parts: tuple[str, dict[str, Any]], check: bool = False, **options: Any
    ) -> HostReconciler:
        return HostReconciler(
            [(name, parse(wanted)) for name, wanted in parts],
            ReconcileOptions(**options),
            check=check,
            host=Reached(
                run=self.systemd,
                talk=self.redis,
                paths=self.paths,
                children=lambda pid: self.systemd.children.get(pid, frozenset()),
                sleep=self.systemd.sleep,
                clock=self.systemd.clock,
            ),
        )

    def reconcile(
        self, wanted: dict[str, Any], *, apply: bool = True, **options: Any
    ) -> HostReport:
        return self.run(("", wanted), apply=apply, **options)

    def run(
        self, *parts: tuple[str, dict[str, Any]], apply: bool = True, **options: Any
    ) -> HostReport:
        made = self.reconciler(*parts, **options)
        made.apply_files()
        made.plan_units()
        if apply:
            made.apply_units()
        return made.report

    def tree(self) -> dict[str, str]:
        """Return every path with its content or its target, or `/` for a directory."""
        return {
            str(path.relative_to(self.root)): f"-> {os.readlink(path)}"
            if path.is_symlink()
            else path.read_text()
            if path.is_file()
            else "/"
            for path in sorted(self.root.rglob("*"))
            if path.relative_to(self.root).parts[0] not in ("state", "releases")
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# --- files -------------------------------------------------------------------------------------------


def test_files_are_written_with_their_modes_and_only_if_they_differ(host: Host) -> None:
    wanted = {
        "directories": [{"path": host.path("d"), "owner": ME, "group": MY_GROUP, "mode": "0750"}],
        "files": [host.file("d/a", "one\n", mode="0640"), host.file("d/b", "two\n")],
        "links": [{"path": host.path("d/l"), "target": "../releases/1"}],
    }
    report = host.reconcile(wanted)
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

    assert host.reconcile(wanted).changed == []
    assert {name: os.lstat(host.path(name)).st_ino for name in before} == before

    os.chmod(host.path("d/a"), 0o644)
    assert host.reconcile(wanted).changed == [host.path("d/a")]
    assert mode(host.path("d/a")) == 0o640


def test_a_file_is_replaced_never_written_to(host: Host) -> None:
    # A process that has opened the old file continues to read it, and no reader sees half of the new one.
    host.reconcile({"files": [host.file("a", "old\n")]})
    with open(host.path("a")) as reader:
        host.reconcile({"files": [host.file("a", "new\n")]})
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
    host.reconcile({"files": [host.file("key", "secret\n", mode="0600", secret=True)]})
    assert seen == [0o600]


@pytest.mark.parametrize("failing", ["fchown", "fsync", "replace"])
def test_a_write_that_fails_leaves_nothing_behind(
    host: Host, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    host.reconcile({"files": [host.file("a", "old\n")]})
    wanted = {"files": [host.file("b", "b\n"), host.file("a", "new\n")]}
    before = host.tree()
    real = getattr(os, failing)

    def fail(*args: Any) -> None:
        # It only fails once, because restoring the files must work.
        monkeypatch.setattr(os, failing, real)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        host.reconcile(wanted)
    assert host.tree() == before


def test_only_leftovers_of_a_killed_write_are_removed(host: Host) -> None:
    names = (".a.fleet-0123456789abcdef", ".l.fleet-0123456789abcdef")
    others = (".b.fleet-0123456789abcdef", ".a.original", ".a.fleet-mine")
    for name in (*names, *others):
        Path(host.path(name)).write_text("secret\n")
    wanted = {
        "files": [host.file("a", "1\n")],
        "links": [{"path": host.path("l"), "target": "a"}],
    }
    host.reconcile(wanted, check=True)
    assert host.tree().keys() == {*names, *others, "units"}
    host.reconcile(wanted)
    assert host.tree().keys() == {*others, "units", "a", "l"}


def test_no_other_user_can_read_a_secret_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory may be open to all users, like that of users.acl."""
    modes = []
    fchown = os.fchown

    def noted(handle: int, uid: int, gid: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        fchown(handle, uid, gid)

    monkeypatch.setattr(os, "fchown", noted)
    before = os.umask(0)
    try:
        replace(tmp_path / "users.acl", b"secret", 0o640, os.getuid(), os.getgid())
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "users.acl").stat().st_mode) == 0o640


def test_the_diff_shows_files_but_no_secret(host: Host) -> None:
    host.reconcile({"files": [host.file("p", "p1\n"), host.file("s", "hush1\n", secret=True)]})
    wanted = [host.file("p", "p2\n"), host.file("s", "hush2\n", secret=True)]
    report = host.reconcile({"files": [*wanted, host.file("t", "hush3\n", secret=True)]})
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


def test_a_generated_file_is_not_printed(host: Host) -> None:
    report = host.reconcile({"files": [host.file("lib.py", "a long text\n", diff=False)]})
    assert report.changed == [host.path("lib.py")]
    assert "a long text" not in repr(report.diff)


@pytest.mark.parametrize("kind", ["files", "directories", "links"])
def test_a_path_of_another_kind_is_left_alone(host: Host, kind: str) -> None:
    path = Path(host.path("x"))
    (path.touch if kind == "directories" else path.mkdir)()
    item: dict[str, Any] = {
        "files": host.file("x", ""),
        "directories": {"path": host.path("x"), "owner": ME, "group": MY_GROUP},
        "links": {"path": host.path("x"), "target": "y"},
    }[kind]
    with pytest.raises(ReconcileError, match="move it away and run again"):
        host.reconcile({kind: [item]})


def test_a_link_in_the_place_of_a_file_is_not_followed(host: Host) -> None:
    Path(host.path("passwd")).write_text("root\n")
    os.symlink("passwd", host.path("a"))
    with pytest.raises(ReconcileError, match="is not a regular file"):
        host.reconcile({"files": [host.file("a", "mine\n")]})
    assert Path(host.path("passwd")).read_text() == "root\n"


def declared(path: str, mode: str = "2750") -> dict[str, Any]:
    item = {"path": path, "owner": ME, "group": MY_GROUP, "mode": mode, "follow": False}
    return {"directories": [item]}


def test_a_declared_directory_is_made_with_its_parents(host: Host) -> None:
    path = host.path("srv/shop/media")
    assert host.reconcile(declared(path), check=True).changed == [path]
    assert not Path(host.path("srv")).exists()
    assert host.reconcile(declared(path)).changed == [path]
    assert (mode(path), mode(host.path("srv/shop"))) == (0o2750, 0o755)
    assert host.reconcile(declared(path)).changed == []
    assert host.reconcile(declared(path, "0755")).changed == [path]
    assert mode(path) == 0o755


@pytest.mark.parametrize("follow", [True, False])
def test_a_plan_shows_a_new_directory_as_the_run_does(host: Host, follow: bool) -> None:
    path = host.path("srv/media")
    item = {"path": path, "owner": ME, "group": MY_GROUP, "mode": "0755", "follow": follow}
    planned = host.reconcile({"directories": [item]}, check=True)
    made = host.reconcile({"directories": [item]})
    assert planned.changed == made.changed == [path]
    assert planned.diff[0] == made.diff[0]
    assert made.diff[0]["before"] == ""
    assert host.reconcile({"directories": [item]}).changed == []


def test_a_directory_of_the_fleets_own_may_be_below_a_link_but_not_be_one(host: Host) -> None:
    Path(host.path("real")).mkdir()
    Path(host.path("link")).symlink_to("real")
    item = {"path": host.path("link/d"), "owner": ME, "group": MY_GROUP, "mode": "0750"}
    assert host.reconcile({"directories": [item]}).changed == [host.path("link/d")]
    assert mode(host.path("real/d")) == 0o750
    with pytest.raises(ReconcileError, match="link is not a directory"):
        host.reconcile({"directories": [{**item, "path": host.path("link")}]})


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("linked", ["media", "media/a"])
def test_no_link_leads_root_to_another_directory(host: Host, linked: str, check: bool) -> None:
    """A process that owns the parent may put a link there at any time."""
    other = Path(host.path("other"))
    (other / "a").mkdir(parents=True, mode=0o700)
    place = Path(host.path(linked))
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(other)
    with pytest.raises(ReconcileError, match=f"{linked} is a link or not a directory"):
        host.reconcile(declared(host.path("media/a"), "0777"), check=check)
    assert mode(str(other / "a")) == 0o700


def test_an_unknown_owner_is_named(host: Host) -> None:
    wanted = {"files": [{**host.file("a", ""), "owner": "no-such-user"}]}
    with pytest.raises(ReconcileError, match=r"no such user or group on this host: .*no-such-user"):
        host.reconcile(wanted)
    assert host.reconcile(wanted, check=True).changed == [host.path("a")]


def test_a_missing_directory_is_named(host: Host) -> None:
    with pytest.raises(ReconcileError, match=r"no/a: its directory does not exist"):
        host.reconcile({"files": [host.file("no/a", "")]})


# --- a daemon's own check ----------------------------------------------------------------------------


def checked(host: Host, *files: dict[str, Any]) -> dict[str, Any]:
    return {
        "files": list(files),
        "checks": [{"command": ["nginx", "-t"], "files": [host.path("*.conf")]}],
    }


def test_if_a_check_refuses_all_files_of_the_call_are_restored(host: Host) -> None:
    host.reconcile({"files": [host.file("a.conf", "good\n", mode="0640"), host.file("c", "c1\n")]})
    before = host.tree()
    host.systemd.refused["nginx"] = "unknown directive in a.conf:1"
    wanted = checked(
        host,
        host.file("a.conf", "bad\n", mode="0600"),
        host.file("b.conf", "b\n"),
        host.file("c", "c2\n"),
    )
    with pytest.raises(ReconcileError) as caught:
        host.reconcile(wanted)
    refused = ", ".join(map(host.path, ("a.conf", "b.conf")))
    assert str(caught.value) == (
        f"nginx -t refuses {refused}: unknown directive in a.conf:1\n"
        "All files of this call were restored."
    )
    assert host.tree() == before
    assert mode(host.path("a.conf")) == 0o640


@pytest.mark.parametrize("words", ["", "unknown directive in a.conf:1"])
def test_a_trial_asks_the_daemon_and_changes_nothing(host: Host, words: str) -> None:
    host.reconcile({"files": [host.file("a.conf", "a1\n", mode="0640"), host.file("c", "c1\n")]})
    before = host.tree()
    seen: dict[str, dict[str, str]] = {}
    host.systemd.before = lambda command: seen.update({command: host.tree()})
    wanted = checked(
        host,
        host.file("a.conf", "a2\n", mode="0600"),
        host.file("b.conf", "b\n"),
        host.file("c", "c2\n"),
        host.file("later/d.conf", "d\n"),
    )
    wanted["checks"][0]["files"].append(host.path("later/*.conf"))
    wanted["units"] = [{"name": "a.service", "files": [host.path("a.conf")]}]
    made = host.reconciler(("", wanted), trial=True)
    if words:
        host.systemd.refused["nginx"] = words
        with pytest.raises(ReconcileError, match=words):
            made.try_files()
    else:
        made.try_files()
        assert not made.report.changes
    assert seen == {"nginx -t": {**before, "a.conf": "a2\n", "b.conf": "b\n"}}
    assert host.tree() == before
    assert mode(host.path("a.conf")) == 0o640


def test_a_trial_also_checks_what_a_killed_run_has_written(host: Host) -> None:
    wanted = checked(host, host.file("a.conf", "bad\n"))
    Path(host.path("a.conf")).write_text("bad\n")
    Path(host.path("a.conf")).chmod(0o644)
    host.systemd.refused["nginx"] = "unknown directive in a.conf:1"
    with pytest.raises(ReconcileError, match="unknown directive"):
        host.reconciler(("", wanted), trial=True).try_files()


def test_check_mode_asks_no_daemon(running: Host) -> None:
    wanted = worker(running, env="A=2\n", text=f"{UNIT_TEXT}NoSuch=1\n")
    wanted["checks"] = [{"command": ["nginx", "-t"], "files": [running.path("*.env")]}]
    assert running.reconcile(wanted, check=True).pending
    asked = {command.split()[0] for command in running.systemd.commands}
    assert not asked & {"nginx", "systemd-analyze"}


def test_a_unit_that_systemd_refuses_does_not_go_live(running: Host) -> None:
    before = running.tree()
    running.systemd.refused["systemd-analyze"] = f"{UNIT}:4: Unknown key 'NoSuch'"
    with pytest.raises(ReconcileError, match=r"systemd refuses a unit file: .*NoSuch"):
        running.reconcile(worker(running, text=f"{UNIT_TEXT}NoSuch=1\n"))
    assert running.tree() == before
    assert running.systemd.did() == []


def test_a_configuration_that_redis_refuses_does_not_go_live(host: Host) -> None:
    required("redis-server")
    path = host.path("redis.conf")

    def wanted(text: str) -> dict[str, Any]:
        checks = [{"redis": path, "files": [path]}]
        return {"files": [host.file("redis.conf", text)], "checks": checks}

    host.reconcile(wanted("maxmemory 100mb\n"))
    before = host.tree()
    with pytest.raises(ReconcileError, match=r"maxmemory lots.*\n.*were restored"):
        host.reconcile(wanted("maxmemory lots\n"))
    assert host.tree() == before


def test_restored_files_have_their_old_times(running: Host) -> None:
    path = running.units / "shop-worker@.service"
    os.utime(path, ns=(5, 1_000_000_000))
    running.systemd.refused["nginx"] = "no"
    wanted = worker(running, text=f"{UNIT_TEXT}Nice=1\n")
    wanted["checks"] = [{"command": ["nginx", "-t"], "files": [str(path)]}]
    with pytest.raises(ReconcileError):
        running.reconcile(wanted)
    assert (path.read_text(), path.stat().st_mtime_ns) == (UNIT_TEXT, 1_000_000_000)


@pytest.mark.parametrize("state", ["active", "inactive"])
def test_files_of_a_killed_run_are_checked_before_a_unit_uses_them(
    running: Host, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(command: str) -> None:
        if command == "nginx -t":
            raise Killed

    wanted = worker(running, env="A=bad\n")
    wanted["checks"] = [{"command": ["nginx", "-t"], "files": [running.path("*.env")]}]
    running.systemd.before = kill
    # SIGKILL leaves no time to restore anything.
    with monkeypatch.context() as killed:
        killed.setattr(Files, "_take_back", lambda self: None)
        with pytest.raises(Killed):
            running.reconcile(wanted)
    running.systemd.before = lambda command: None
    running.systemd.units[UNIT].state["ActiveState"] = state
    running.systemd.refused["nginx"] = "A is bad"
    with pytest.raises(ReconcileError) as caught:
        running.reconcile(wanted)
    assert str(caught.value) == (
        f"nginx -t refuses {running.path('a.env')}: A is bad\n"
        "An earlier run wrote it; no unit was started or restarted with it."
    )
    assert running.systemd.did("restart", "start") == []


def test_a_check_that_ran_is_not_run_again_before_the_restart(running: Host) -> None:
    wanted = worker(running, env="A=2\n", text=f"{UNIT_TEXT}Nice=1\n")
    wanted["checks"] = [{"command": ["nginx", "-t"], "files": [running.path("*.env")]}]
    assert [p.action for p in running.reconcile(wanted).done] == ["restart"]
    ran = [c for c in running.systemd.commands if c.startswith(("nginx", "systemd-analyze"))]
    assert [command.split()[0] for command in ran] == ["nginx", "systemd-analyze"]


def test_a_unit_of_ours_that_a_killed_run_wrote_is_verified(running: Host) -> None:
    wanted = worker(running, text=f"{UNIT_TEXT}Nice=1\n")
    (running.units / "shop-worker@.service").write_text(f"{UNIT_TEXT}Nice=1\n")
    running.reconcile(wanted)
    (verify,) = (c for c in running.systemd.commands if c.startswith("systemd-analyze verify"))
    assert verify.endswith(f" {running.units}/{UNIT}")


# --- releases ----------------------------------------------------------------------------------------


def test_a_link_to_a_release_that_is_not_built_is_refused_before_all_else(running: Host) -> None:
    before = running.tree()
    wanted = worker(running, env="A=2\n", release="3")
    words = (
        "release 3 is not built on this host, or for another Python than it has now, and "
        f"{running.path('pins/a')} is to point to it: "
    )
    (running.root / "releases/3").mkdir()
    for given, check in (
        (wanted, False),
        (wanted, True),
        # Except in the plan, another step has built it before.
        (wanted | {"releases": [{"path": running.path("releases/3"), "what": "release"}]}, False),
    ):
        with pytest.raises(ReconcileError, match=re.escape(words)):
            running.reconcile(given, check=check)
    current = {"links": [{"path": running.path("current"), "target": "releases/3"}]}
    with pytest.raises(ReconcileError, match=re.escape("release 3 is not built")):
        running.reconcile(current)
    assert running.tree() == before


def test_a_release_that_was_never_finished_is_built(running: Host) -> None:
    half = running.root / "releases/3"
    half.mkdir()
    wanted = worker(running, release="3")
    built = {"releases": [{"path": running.path("releases/3"), "what": "release"}]}
    report = running.run(("release", built), ("worker", wanted), check=True)
    assert whys(report.pending)[0] == ("", "build", ["release 3"])
    half.rmdir()
    running.build("3", note="{}")
    report = running.run(("release", built), ("worker", wanted), check=True)
    assert [item.action for item in report.pending] == ["restart"]


def test_a_release_for_the_hosts_previous_python_is_built_again(running: Host) -> None:
    running.python("1", "python3.13", "python3.11")
    wanted = worker(running)
    built = {"releases": [{"path": running.path("releases/1"), "what": "release"}]}
    report = running.run(("release", built), ("worker", wanted), check=True)
    words = f"release 1 again: its virtualenv does not work with {running.path('state/programs/python3.13')}"
    assert whys(report.pending) == [("", "build", [words])]
    with pytest.raises(ReconcileError, match="not built on this host, or for another Python"):
        running.reconcile(wanted)
    running.python("1", "python3.13", "python3.13")
    assert not running.run(("release", built), ("worker", wanted), check=True).pending


def test_a_task_that_a_release_lacks_is_foretold(running: Host) -> None:
    schedule = {name: {"task": name, "interval": 5} for name in ("a.x", "a.y")}
    release = {
        "path": running.path("releases/1"),
        "what": "release",
        "demands": {"schedule": schedule},
    }
    with pytest.raises(ReconcileError) as caught:
        running.reconcile({"releases": [release]}, check=True)
    assert str(caught.value) == (
        "celery_beat_schedule.a.y: release 1 has no task a.y. Did you mean a.x? Correct the entry, or deploy code that "
        "has it.\n"
        "Nothing was changed."
    )
    lesser = {"schedule": {"a.x": schedule["a.x"]}}
    running.reconcile({"releases": [release | {"demands": lesser}]}, check=True)
    running.reconcile({"releases": [release | {"path": running.path("releases/3")}]}, check=True)
    running.build("4", note="half")
    with pytest.raises(ReconcileError, match=r"release 4: its release.json can't be read. Remove"):
        running.reconcile(
            {"releases": [release | {"path": running.path("releases/4")}]}, check=True
        )


def test_commands_of_another_step_are_foretold_after_the_build(running: Host) -> None:
    release = {"path": running.path("releases/3"), "what": "release"}
    command = {"subject": "shop", "text": "migrate (once per release)"}
    commands = {"commands": [command]}
    parts = (("release", {"releases": [release]}), ("commands", commands))
    report = running.run(*parts, ("worker", worker(running, release="3")), check=True)
    found = [(item.part, item.unit, item.action, item.why) for item in report.pending[:2]]
    assert found == [
        ("release", "", "build", ("release 3",)),
        ("commands", "shop", "run", ("migrate (once per release)",)),
    ]
    # These are not changes that reconciling would make.
    assert running.reconcile(commands).pending == []


def test_a_check_sees_the_files_that_were_just_written(host: Host) -> None:
    seen = []
    host.systemd.before = lambda command: (
        seen.append(Path(host.path("a.conf")).read_text()) if command == "nginx -t" else None
    )
    host.reconcile(checked(host, host.file("a.conf", "new\n")))
    assert seen == ["new\n"]


def test_a_check_runs_for_its_files_only(host: Host) -> None:
    host.reconcile(checked(host, host.file("a.conf", "x\n"), host.file("other", "x\n")))
    host.systemd.commands.clear()
    host.reconcile(checked(host, host.file("a.conf", "x\n"), host.file("other", "y\n")))
    assert host.systemd.did() == []


# --- users -------------------------------------------------------------------------------------------


def test_missing_users_are_created(host: Host) -> None:
    wanted = {"sysusers": [host.file("sysusers.d/shop.conf", "u no-such-user-1 -\n")]}
    host.reconcile(wanted)
    # The fake creates no user, so the next run tries again although the file is right.
    host.reconcile(wanted)
    assert host.systemd.did() == [f"systemd-sysusers {host.path('sysusers.d/shop.conf')}"] * 2
    for check in (True, False):
        assert host.reconcile(wanted, check=check).changed == [host.path("sysusers.d/shop.conf")]

    host.systemd.commands.clear()
    there = {"sysusers": [host.file("sysusers.d/me.conf", f"# x\nu {ME} -\ng {MY_GROUP} -\n")]}
    host.reconcile(there)
    assert host.reconcile(there).changed == []
    assert len(host.systemd.did()) == 1


def test_users_that_are_refused_are_an_error(host: Host) -> None:
    host.systemd.refused["systemd-sysusers"] = "Invalid user name"
    with pytest.raises(ReconcileError, match=r"systemd-sysusers refused .*: Invalid user name"):
        host.reconcile({"sysusers": [host.file("s.conf", "u 1 -\n")]})


# --- units: restarts follow need ---------------------------------------------------------------------

HEADER = "# Written by Celery Fleet.\n"
UNIT_TEXT = f"{HEADER}[Service]\nExecStart=/bin/sleep 9\n"


def unit(host: Host, **more: Any) -> dict[str, Any]:
    """Return a worker that reads a file and resolves a link at its start."""
    return {
        "name": UNIT,
        "files": [host.path("a.env")],
        "links": [host.path("pins/a")],
        "timeout": 30,
        **more,
    }


def worker(
    host: Host, env: str = "A=1\n", release: str = "1", text: str = UNIT_TEXT, **more: Any
) -> dict[str, Any]:
    return {
        "directories": [{"path": host.path("pins"), "owner": ME, "group": MY_GROUP}],
        "files": [host.file("a.env", env), host.file("units/shop-worker@.service", text)],
        "links": [{"path": host.path("pins/a"), "target": f"../releases/{release}"}],
        "units": [unit(host, **more)],
    }


@pytest.fixture
def running(host: Host) -> Host:
    """Return a host on which `worker()` was reconciled; a user has added a drop-in to it."""
    user_drop_in(host, "user.conf", "[Service]\nNice=5\n")
    host.reconcile(worker(host))
    assert host.systemd.units[UNIT].state["ActiveState"] == "active"
    host.systemd.commands.clear()
    return host


def user_drop_in(host: Host, name: str, text: str) -> Path:
    path = host.units / f"{UNIT}.d" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def whys(items: Sequence[PendingAction]) -> list[tuple[str, str, list[str]]]:
    return [(item.unit, item.action, list(item.why)) for item in items]


def test_a_first_run_reloads_enables_and_starts(host: Host) -> None:
    report = host.reconcile(worker(host))
    assert host.systemd.did() == [
        "systemctl daemon-reload",
        f"systemctl enable --quiet {UNIT}",
        f"systemctl start --no-block {UNIT}",
    ]
    assert whys(report.done) == [(UNIT, "start", ["new"])]


@pytest.mark.parametrize("check", [True, False])
def test_an_existing_unit_is_not_called_new(running: Host, check: bool) -> None:
    running.systemd.units[UNIT].state["ActiveState"] = "inactive"
    wanted = worker(running)
    wanted["units"] += [{"name": name} for name in ("shop-worker@b.service", "a.service")]
    wanted["files"].append(running.file("units/a.service", UNIT_TEXT))
    wanted["units"].append({"name": "there.service"})
    (running.units / "there.service").write_text(UNIT_TEXT)
    assert whys(running.reconcile(wanted, check=check).pending) == [
        (UNIT, "start", ["it is inactive"]),
        ("shop-worker@b.service", "start", ["new"]),
        ("a.service", "start", ["new"]),
        ("there.service", "start", ["it is inactive"]),
    ]


def test_the_recorders_files_are_there_before_the_first_start(host: Host) -> None:
    host.reconcile(worker(host))
    places = host.paths
    assert Path(places.recorder).read_text() == Path(fingerprint.__file__).read_text()
    assert [mode(path) for path in (places.recorder, places.key)] == [0o644, 0o600]
    assert mode(places.lists) == mode(places.records) == 0o700
    assert mode(f"{places.lists}/{UNIT}.json") == mode(f"{places.records}/{UNIT}.json") == 0o600
    assert host.recorded(UNIT)["inputs"].keys() == {
        "environment A",
        "release",
        "unit shop-worker@.service",
    }


def test_a_different_recorder_counts_as_a_change(running: Host) -> None:
    Path(running.paths.recorder).write_text("# of an older version\n")
    assert running.reconcile(worker(running), check=True).changed == [running.paths.recorder]
    report = running.reconcile(worker(running))
    assert (report.changed, report.pending) == ([running.paths.recorder], [])
    assert running.reconcile(worker(running)).changed == []


def test_without_units_there_is_no_recorder(host: Host) -> None:
    host.reconcile({"files": [host.file("a", "x\n")]})
    assert not Path(host.paths.recorder).exists()


def test_a_second_run_does_nothing(running: Host) -> None:
    report = running.reconcile(worker(running))
    assert (report.changed, report.pending, report.done) == ([], [], [])
    assert running.systemd.did() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"env": "A=2\n"}, "environment A changed"),
        ({"env": 'A=1\nB="x y"\n'}, "environment B new"),
        ({"release": "2"}, "release 1 → 2"),
        ({"values": {"runtime": "1.1"}}, "runtime new"),
        ({"text": f"{UNIT_TEXT}Nice=1\n"}, "unit shop-worker@.service changed"),
    ],
    ids=["variable", "new variable", "link", "value", "unit file"],
)
def test_a_difference_restarts_once(running: Host, change: dict[str, Any], why: str) -> None:
    wanted = worker(running, **change)
    foretold = running.reconcile(wanted, check=True)
    assert whys(foretold.pending) == [(UNIT, "restart", [why])]
    report = running.reconcile(wanted)
    assert whys(report.done) == whys(foretold.pending)
    assert running.systemd.did("restart") == [f"systemctl restart --no-block {UNIT}"]
    running.systemd.commands.clear()
    assert running.reconcile(wanted).done == []
    assert running.systemd.did() == []


def with_options(
    host: Host, memory: str = "", runtime: str = "1", time: int = 5, **options: Any
) -> dict[str, Any]:
    """Return a worker with a command line, a drop-in and settings as the role writes them."""
    command = workers.worker_command("app", "a@h1", {"queues": ["a"], **options})
    variables = environment.process_environment("worker", f"/lib/{runtime}", command)
    drop_in = f"units/{UNIT}.d/10-fleet.conf"
    stop = f"ExecStop=/lib/{runtime}/celery_fleet/system/stop.py $MAINPID --drain 9"
    pins = {"broker_url": "rediss://u:s3cr3t@h/0", "task_time_limit": time}
    wanted = worker(host, env=environment.environment_file(variables), values={"runtime": runtime})
    place = {"path": host.path(f"units/{UNIT}.d"), "owner": ME, "group": MY_GROUP}
    wanted["directories"].append(place)
    wanted["files"] += [
        host.file(drop_in, f"[Service]\n{stop}\n{memory}"),
        host.file("worker.json", json.dumps({"format": 1, "celery": pins})),
    ]
    wanted["units"][0]["files"].append(host.path("worker.json"))
    return wanted


def test_a_plan_uses_the_words_of_the_inventory(host: Host) -> None:
    host.reconcile(with_options(host, concurrency=4))
    wanted = with_options(host, "# memory_max\nMemoryMax=512M\n", time=7, concurrency=3)
    expected = ["memory_max → 512M", "concurrency 4 → 3", "task_time_limit 5 → 7"]
    assert whys(host.reconcile(wanted, check=True).pending) == [(UNIT, "restart", expected)]
    # The process has not read what a killed run wrote, so the old value is no longer known.
    host.reconcile(wanted, apply=False)
    assert whys(host.reconcile(wanted, check=True).pending) == [
        (
            UNIT,
            "restart",
            [
                "drop-in 10-fleet.conf changed",
                "environment CELERY_FLEET_ARGS changed",
                "settings task_time_limit changed",
            ],
        )
    ]


def test_differences_that_follow_from_a_new_runtime_are_not_listed(host: Host) -> None:
    host.reconcile(with_options(host))
    pending = host.reconcile(with_options(host, runtime="2"), check=True).pending
    assert whys(pending) == [(UNIT, "restart", ["runtime 1 → 2"])]


def test_a_difference_without_an_explanation_restarts_as_well(host: Host) -> None:
    host.reconcile(with_options(host))
    pending = host.reconcile(with_options(host, "# another comment\n"), check=True).pending
    assert whys(pending) == [(UNIT, "restart", ["drop-in 10-fleet.conf changed"])]


def test_a_new_drop_in_of_a_user_restarts_the_unit(running: Host) -> None:
    path = user_drop_in(running, "user.conf", "[Service]\nNice=6\n")
    expected = [(UNIT, "restart", ["drop-in user.conf changed"])]
    assert whys(running.reconcile(worker(running), check=True).pending) == expected
    assert whys(running.reconcile(worker(running)).done) == expected
    assert running.systemd.did() == [
        "systemctl daemon-reload",
        f"systemctl restart --no-block {UNIT}",
    ]
    path.unlink()
    expected = [(UNIT, "restart", ["drop-in user.conf removed"])]
    assert whys(running.reconcile(worker(running), check=True).pending) == expected
    assert whys(running.reconcile(worker(running)).done) == expected


class Killed(BaseException):
    """The run was killed, and nothing handles that."""


@pytest.mark.parametrize("moment", ["daemon-reload", "show", "restart", "after restart"])
def test_a_run_that_is_killed_is_finished_by_the_next(running: Host, moment: str) -> None:
    def kill(command: str) -> None:
        late = any(c.startswith("systemctl restart") for c in running.systemd.commands[:-1])
        if late if moment == "after restart" else f"systemctl {moment}" in command:
            raise Killed

    running.systemd.before = kill
    wanted = worker(running, env="A=2\n", text=f"{UNIT_TEXT}Nice=1\n")
    with pytest.raises(Killed):
        running.reconcile(wanted)
    assert Path(running.path("a.env")).read_text() == "A=2\n"

    running.systemd.before = lambda command: None
    running.systemd.commands.clear()
    report = running.reconcile(wanted)
    # systemd finishes a restart that was begun, and the record shows it.
    assert [p.action for p in report.done] == ([] if moment == "after restart" else ["restart"])
    assert running.reconcile(wanted).done == []


def test_a_reverted_change_restarts_nothing(running: Host) -> None:
    running.reconcile(worker(running, env="A=2\n", release="2"), apply=False)
    report = running.reconcile(worker(running))
    assert report.changed == [running.path("a.env"), running.path("pins/a")]
    assert (report.pending, running.systemd.did("restart")) == ([], [])


def test_a_process_that_started_with_a_reverted_change_restarts(running: Host) -> None:
    running.reconcile(worker(running, env="A=2\n"), apply=False)
    running.systemd.crash(UNIT)
    assert running.reconcile(worker(running, env="A=2\n")).pending == []
    report = running.reconcile(worker(running))
    assert whys(report.done) == [(UNIT, "restart", ["environment A changed"])]


@pytest.mark.parametrize("crashed", [False, True])
def test_a_manual_edit_is_undone_and_a_process_that_started_with_it_restarts(
    running: Host, crashed: bool
) -> None:
    Path(running.path("a.env")).write_text("A=1\nDEBUG=1\n")
    if crashed:
        running.systemd.crash(UNIT)
    wanted = worker(running)
    foretold = running.reconcile(wanted, check=True)
    report = running.reconcile(wanted)
    assert report.changed == [running.path("a.env")]
    expected = [(UNIT, "restart", ["environment DEBUG removed"])] if crashed else []
    assert whys(report.done) == expected
    assert whys(foretold.pending) == expected or [p.action for p in foretold.pending] == ["write"]


def test_a_process_that_started_while_a_reload_was_due_is_unknown(running: Host) -> None:
    path = user_drop_in(running, "user.conf", "[Service]\nNice=6\n")
    running.systemd.crash(UNIT)
    path.write_text("[Service]\nNice=5\n")
    report = running.reconcile(worker(running))
    assert whys(report.done) == [
        (
            UNIT,
            "restart",
            ["what it was started with is not known: daemon-reload was due when it started"],
        )
    ]


def test_a_file_that_changes_during_a_start_does_not_count_as_read(host: Host) -> None:
    def someone(command: str) -> None:
        if command.startswith("systemctl start"):
            Path(host.path("a.env")).write_text("A=3\n")

    # Without a recorder, reconcile must write down what was there before the start.
    host.systemd.on_start = lambda name, state: None
    host.systemd.before = someone
    host.reconcile(worker(host, env="A=2\n"))
    host.systemd.before = lambda command: None
    assert [p.action for p in host.reconcile(worker(host, env="A=3\n")).done] == ["restart"]


def test_a_unit_without_the_recorder_is_not_restarted_by_each_run(host: Host) -> None:
    wanted = {"units": [{"name": "some.socket"}]}
    assert [p.action for p in host.reconcile(wanted).done] == ["start"]
    assert host.reconcile(wanted).pending == []
    host.systemd.crash("some.socket")
    assert [p.action for p in host.reconcile(wanted).done] == ["restart"]


@pytest.mark.parametrize("damage", ["gone", "{", "[]", '{"format": 9, "invocation": "new-1"}'])
def test_without_a_valid_record_it_is_restarted(running: Host, damage: str) -> None:
    record = Path(f"{running.paths.records}/{UNIT}.json")
    if damage == "gone":
        record.unlink()
    else:
        record.write_text(damage)
    for check in (True, False):
        (item,) = running.reconcile(worker(running), check=check).pending
        assert item.action == "restart"
        assert item.text.startswith("what it was started with is not known: ")
    assert running.reconcile(worker(running)).pending == []


def test_a_record_of_another_start_does_not_count(running: Host) -> None:
    running.systemd.on_start = lambda name, state: None
    running.systemd.crash(UNIT)
    (item,) = running.reconcile(worker(running)).done
    assert item.text == "what it was started with is not known: no record of its start"


def test_a_lost_key_restarts_once(running: Host) -> None:
    Path(running.paths.key).unlink()
    assert [p.why for p in running.reconcile(worker(running), check=True).pending] == [
        ("what it was started with is not known: the host's key is missing",)
    ]
    assert not Path(running.paths.key).exists()
    assert [p.action for p in running.reconcile(worker(running)).done] == ["restart"]
    assert running.reconcile(worker(running)).done == []


def test_no_file_of_the_reconciler_has_a_value(host: Host) -> None:
    host.reconcile(worker(host, env="PASSWORD=hush\n", values={"password": "hush"}))
    kept = [path for path in Path(host.paths.lists).parent.rglob("*.json") if path.is_file()]
    assert len(kept) == 2
    assert not [path for path in kept if "hush" in path.read_text()]


def test_a_reload_applies_the_change_and_updates_the_record(running: Host) -> None:
    wanted = worker(running, env="A=2\n", on_change="reload")
    report = running.reconcile(wanted)
    assert whys(report.done) == [(UNIT, "reload", ["environment A changed"])]
    assert running.systemd.did("reload", "restart") == [f"systemctl reload {UNIT}"]
    assert running.reconcile(wanted).done == []
    # The reload was recorded; otherwise the old file would be a difference now.
    assert [p.action for p in running.reconcile(worker(running), check=True).pending] == ["restart"]


def test_a_reload_that_was_not_recorded_is_repeated(running: Host) -> None:
    def kill(command: str) -> None:
        if "systemctl reload" in command:
            running.systemd.before = lambda command: None
            raise Killed

    running.systemd.before = kill
    with pytest.raises(Killed):
        running.reconcile(worker(running, env="A=2\n", on_change="reload"))
    # This holds whether or not systemd has done it, although the files are the same as before.
    taken_back = worker(running, on_change="reload")
    assert whys(running.reconcile(taken_back).done) == [(UNIT, "reload", ["environment A changed"])]
    assert running.reconcile(taken_back).pending == []


def test_a_unit_that_can_reload_is_reloaded_if_it_has_no_record(host: Host) -> None:
    host.systemd.add(UNIT, running=True)
    wanted = worker(host, on_change="reload")
    assert [p.action for p in host.reconcile(wanted).done] == ["reload"]
    assert host.reconcile(wanted).done == []


def test_a_reload_that_the_daemon_refuses_is_no_success(running: Host) -> None:
    wanted = worker(running, env="A=2\n", on_change="reload")
    running.systemd.children[200] = frozenset((201, 202))
    with pytest.raises(ReconcileError) as caught:
        running.reconcile(wanted)
    assert "has no new processes 5 s after its reload, so it keeps its old files" in str(
        caught.value
    )
    assert "KeyError" in str(caught.value), "no journal"

    def reload(command: str) -> None:
        if command.startswith("systemctl reload"):
            running.systemd.children[200] = frozenset((202, 203))

    running.systemd.before = reload
    assert [p.action for p in running.reconcile(wanted).done] == ["reload"]
    assert running.reconcile(wanted).pending == []


@pytest.mark.parametrize("active", ["activating", "reloading"])
def test_only_active_units_are_reloaded(running: Host, active: str) -> None:
    running.systemd.units[UNIT].state["ActiveState"] = active
    (item,) = running.reconcile(
        worker(running, env="A=2\n", on_change="reload"), check=True
    ).pending
    assert item.action == {"activating": "restart", "reloading": "reload"}[active]


def test_a_pending_daemon_reload_counts_as_a_change(running: Host) -> None:
    wanted = worker(running, on_change="nothing")
    user_drop_in(running, "user.conf", "[Service]\nNice=7\n")
    report = running.run(("worker", wanted), ("none", {}), check=True)
    assert [(c.part, c.path) for c in report.changes] == [("worker", "daemon-reload")]
    assert [p.action for p in report.pending] == ["write"]
    assert running.reconcile(wanted).changed == ["daemon-reload"]
    assert running.systemd.did() == ["systemctl daemon-reload"]
    assert running.reconcile(wanted, check=True).changed == []


def test_with_on_change_nothing_a_unit_is_only_started(running: Host) -> None:
    assert running.reconcile(worker(running, env="A=2\n", on_change="nothing")).done == []
    running.systemd.units[UNIT].state["ActiveState"] = "inactive"
    done = running.reconcile(worker(running, env="A=2\n", on_change="nothing")).done
    assert [p.action for p in done] == ["start"]


def test_a_unit_that_is_just_stopping_is_started(running: Host) -> None:
    running.systemd.units[UNIT].state.update(ActiveState="deactivating", Job="5")
    assert whys(running.reconcile(worker(running)).done) == [(UNIT, "start", ["it is stopping"])]


# --- units: left alone -------------------------------------------------------------------------------


def several(host: Host) -> dict[str, Any]:
    """Return a changed worker, a new one and a removed one."""
    wanted = worker(host, env="A=2\n", text=f"{UNIT_TEXT}Nice=1\n")
    wanted["units"].append({"name": "shop-worker@new.service"})
    wanted["owned"] = {"units": ["shop-worker@*.service"], "files": [host.path("old-*")]}
    host.systemd.add("shop-worker@old.service", running=True)
    Path(host.path("old-1")).touch()
    return wanted


def test_units_can_be_left_alone_while_everything_else_is_reconciled(running: Host) -> None:
    wanted = several(running)
    report = running.reconcile(wanted, act=False)
    assert running.systemd.did() == [
        "systemctl daemon-reload",
        "systemctl enable --quiet shop-worker@new.service",
    ]
    assert Path(running.path("a.env")).read_text() == "A=2\n"
    assert Path(running.path("old-1")).exists()
    assert report.done == []
    assert sorted(p.action for p in report.pending) == ["remove", "remove", "restart", "start"]
    listed = Path(f"{running.paths.lists}/shop-worker@new.service.json")
    assert listed.exists(), "its start must be recorded, whatever starts it"


def test_a_restart_can_be_left_to_another_step(running: Host) -> None:
    report = running.reconcile(several(running), restart=False)
    assert sorted(p.action for p in report.done) == ["remove", "remove", "start"]
    assert running.systemd.did("restart") == []
    assert running.systemd.units[UNIT].state["InvocationID"] == "new-1"
    (item,) = running.reconcile(worker(running, env="A=2\n"), check=True).pending
    assert (item.unit, item.action) == (UNIT, "restart")


def test_the_report_has_the_states_of_all_units(running: Host) -> None:
    report = running.reconcile(several(running), act=False)
    assert report.states[UNIT] == {
        "active": "active",
        "sub": "running",
        "invocation": "new-1",
        "main_pid": 200,
        "job": False,
        "status": "",
    }
    assert report.states.keys() == {f"shop-worker@{name}.service" for name in ("a", "new", "old")}


# --- units: a start that does not succeed ------------------------------------------------------------


def starts_as(host: Host, *course: dict[str, str]) -> None:
    host.systemd.add(UNIT)
    host.systemd.units[UNIT].course = course


def test_a_failed_unit_is_started(host: Host) -> None:
    host.systemd.add(UNIT, ActiveState="failed", InvocationID="old", ExecMainStatus="78")
    # Before its process is spawned, systemd still describes the previous one.
    host.systemd.units[UNIT].course = ({}, {}, {"ActiveState": "active", "ExecMainStatus": "0"})
    report = host.reconcile(worker(host))
    assert whys(report.done) == [(UNIT, "start", ["it is failed"])]


def test_a_slow_start_is_waited_for(host: Host) -> None:
    starts_as(host, *[{"ActiveState": "activating"}] * 100, {"ActiveState": "active"})
    host.reconcile(worker(host))
    assert 19 < host.systemd.now - 1000 < 31


@pytest.mark.slow
def test_the_old_process_may_drain_until_systemds_timeout(running: Host) -> None:
    course: list[dict[str, str]] = [
        {"InvocationID": "old", "ActiveState": "deactivating", "Job": "7"},
        *[{}] * 9000,
        {"InvocationID": "new", "ActiveState": "activating", "Job": "7"},
        {"ActiveState": "active", "Job": "0"},
    ]
    fake = running.systemd.units[UNIT]
    fake.state["InvocationID"] = "old"
    fake.course = course
    running.reconcile(worker(running, env="A=2\n"))
    assert running.systemd.now - 1000 > 1700


def test_a_timeout_names_the_unit_its_journal_and_the_next_command(host: Host) -> None:
    waiting = {"StatusText": "waiting for broker redis1:6379: connection refused"}
    starts_as(host, {"ActiveState": "activating", "SubState": "start", **waiting})
    with pytest.raises(ReconcileError) as caught:
        host.reconcile(worker(host, hint="Is Redis up?"))
    text = str(caught.value)
    assert f"{UNIT} was not active within 30 s: it is activating (start)" in text
    assert "says “waiting for broker redis1:6379: connection refused”" in text
    assert "  KeyError: 'SECRET_KEY'" in text
    assert f"journalctl -u {UNIT} -n 100" in text
    assert text.endswith("Is Redis up?")
    # It has started with the files on disk and may still become ready, so the next run has nothing to restart.
    assert host.reconcile(worker(host)).pending == []


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
    with pytest.raises(ReconcileError) as caught:
        host.reconcile(worker(host))
    assert f"{UNIT} does not start: it is activating (auto-restart)" in str(caught.value)
    assert "result exit-code, exit status 1, restarted 3 times" in str(caught.value)
    assert "what the dead process said" not in str(caught.value)
    assert host.systemd.now - 1000 < 5


def test_a_configuration_error_ends_the_wait_at_once(host: Host) -> None:
    starts_as(
        host,
        {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}
        | {"ExecMainStatus": "78"},
    )
    with pytest.raises(ReconcileError, match="exit status 78"):
        host.reconcile(worker(host))
    assert host.systemd.now == 1000


def test_after_the_first_failure_the_others_are_left_running(host: Host) -> None:
    others = [f"shop-worker@{name}.service" for name in "bc"]
    for name in others:
        host.systemd.add(name, running=True)
    starts_as(host, {"ActiveState": "failed", "SubState": "failed", "Result": "resources"})
    wanted = worker(host)
    wanted["units"] += [{"name": name} for name in others]
    with pytest.raises(ReconcileError, match="result resources"):
        host.reconcile(wanted)
    assert host.systemd.did("restart") == []


def test_units_that_do_not_run_start_together(host: Host) -> None:
    names = [f"shop-worker@{number}.service" for number in range(24)]
    for name in names:
        host.systemd.add(name)
        host.systemd.units[name].course = [{"ActiveState": "activating"}] * 50 + [
            {"ActiveState": "active"}
        ]
    report = host.reconcile({"units": [{"name": name, "timeout": 30} for name in names]})
    assert host.systemd.did("start") == [f"systemctl start --no-block {' '.join(names)}"]
    assert len(report.done) == 24
    assert host.systemd.now - 1000 < 11


def test_the_unit_that_fails_among_several_is_named(host: Host) -> None:
    for name in ("a", "b"):
        host.systemd.add(f"shop-worker@{name}.service")
    host.systemd.units["shop-worker@b.service"].course = [{"ActiveState": "failed"}]
    wanted = {"units": [{"name": f"shop-worker@{name}.service"} for name in ("a", "b")]}
    with pytest.raises(ReconcileError, match=r"^shop-worker@b.service does not start"):
        host.reconcile(wanted)
    host.systemd.refused["systemctl start"] = "Unit shop-worker@b.service has a bad unit setting."
    with pytest.raises(ReconcileError, match=r"^shop-worker@b.service refused `systemctl start"):
        host.reconcile(wanted)


def test_units_that_differ_restart_one_after_the_other(host: Host) -> None:
    names = [f"shop-{name}.service" for name in "ab"]
    units = [{"name": name} for name in names]
    host.reconcile({"units": units})
    host.systemd.commands.clear()
    host.reconcile({"units": [{**unit, "values": 1} for unit in units]})
    assert host.systemd.did("restart") == [f"systemctl restart --no-block {n}" for n in names]


def test_a_command_that_systemd_refuses_is_reported_with_the_journal(running: Host) -> None:
    running.systemd.refused["systemctl reload"] = "Job for it failed."
    with pytest.raises(ReconcileError) as caught:
        running.reconcile(worker(running, env="A=2\n", on_change="reload"))
    assert f"{UNIT} refused `systemctl reload {UNIT}` (Job for it failed.)" in str(caught.value)
    assert "KeyError" in str(caught.value)


def test_enabling_that_fails_is_an_error(host: Host) -> None:
    host.systemd.refused["systemctl enable"] = "Unit file does not exist."
    with pytest.raises(
        ReconcileError, match=r"`systemctl enable .* failed: Unit file does not exist"
    ):
        host.reconcile(worker(host))


# --- what has left the inventory -----------------------------------------------------------

OLD = "shop-worker@old.service"


@pytest.fixture
def with_surplus(running: Host) -> Host:
    """Return a host with a second worker, which was removed from the inventory."""
    drop_in = running.units / f"{OLD}.d"
    drop_in.mkdir()
    (drop_in / "10-fleet.conf").write_text(f"{HEADER}[Service]\n")
    Path(running.path("worker-old.env")).write_text("A=1\n")
    os.symlink("releases/1", running.path("pin-old"))
    running.systemd.add(OLD, running=True)
    running.systemd.add("other-worker@old.service", running=True)
    inputs = {"files": [running.path("worker-old.env")], "links": [running.path("pin-old")]}
    fingerprint.write_object(f"{running.paths.lists}/{OLD}.json", inputs)
    fingerprint.write_record(OLD, "old", {}, directory=running.paths.records)
    Path(running.paths.ends).mkdir()
    Path(running.paths.ends, f"{OLD}.json").write_text("{}")
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


def test_a_removed_worker_is_stopped_and_disabled_and_its_files_are_deleted(
    with_surplus: Host,
) -> None:
    host = with_surplus
    report = host.reconcile(owning(host))
    assert host.systemd.did() == [
        f"systemctl stop {OLD}",
        f"systemctl disable --quiet {OLD}",
        "systemctl daemon-reload",
    ]
    why = ["not in the inventory: drain, stop, delete 3 files"]
    assert whys(report.done) == [(OLD, "remove", why)]
    assert not [path for path in host.root.rglob("*") if "old" in path.name]
    assert host.systemd.units["other-worker@old.service"].state["ActiveState"] == "active"


def test_a_socket_is_stopped_before_the_service_that_it_would_start_again(running: Host) -> None:
    names = ["shop-exporter.service", "shop-exporter.socket"]
    for name in names:
        running.systemd.add(name, running=True)
    running.reconcile({**worker(running), "owned": {"units": names}})
    stops = [f"systemctl stop {name}" for name in reversed(names)]
    assert running.systemd.did("stop") == stops


def test_nginx_stops_listening_for_a_site_that_is_removed(running: Host) -> None:
    running.systemd.add("nginx.service", running=True)
    site = running.root / "etc/nginx/conf.d/shop-metrics.conf"
    site.parent.mkdir(parents=True)
    site.write_text(f"{HEADER}server {{}}\n")
    wanted = {**worker(running), "owned": {"files": [str(site)]}}
    # The reload may end the run, or fail in nginx later; until it has succeeded, the next run has to repeat it.
    running.systemd.refused["systemctl reload"] = "other.conf is wrong"
    with pytest.raises(ReconcileError, match=r"other\.conf is wrong"):
        running.reconcile(wanted)
    running.systemd.refused.clear()
    running.systemd.children[100] = frozenset((101,))
    with pytest.raises(ReconcileError, match="no new processes"):
        running.reconcile(wanted)
    seen = []

    def reload(command: str) -> None:
        if command == "systemctl reload nginx.service":
            seen.append(site.read_text())
            running.systemd.children[100] = frozenset((102,))

    running.systemd.before = reload
    assert running.reconcile(wanted).changed == [str(site)]
    assert seen == ["# Written by Celery Fleet\n"]
    assert not site.exists()
    running.reconcile(wanted)
    assert running.systemd.did() == ["systemctl reload nginx.service"] * 3


def test_a_removed_unit_is_no_longer_listed_as_failed(with_surplus: Host) -> None:
    host = with_surplus
    host.systemd.units[OLD].state["ActiveState"] = "failed"
    host.reconcile(owning(host))
    assert host.systemd.did("reset-failed") == [f"systemctl reset-failed {OLD}"]
    assert host.systemd.units[OLD].state["ActiveState"] == "inactive"


def test_records_of_a_unit_that_was_removed_elsewhere_are_deleted(with_surplus: Host) -> None:
    """A rolling restart stops and disables a worker itself; reconcile removes the rest."""
    host = with_surplus
    del host.systemd.units[OLD]
    other = "other-worker@old.service"
    fingerprint.write_object(f"{host.paths.lists}/{other}.json", {"files": [], "links": []})
    host.reconcile(owning(host))
    assert [path.name for path in host.root.rglob("*") if "old" in path.name] == [f"{other}.json"]


def test_files_are_only_deleted_once_the_unit_has_stopped(with_surplus: Host) -> None:
    host = with_surplus
    host.systemd.refused[f"systemctl stop {OLD}"] = "Connection reset"
    with pytest.raises(ReconcileError, match="Connection reset"):
        host.reconcile(owning(host))
    assert Path(host.path("worker-old.env")).exists()


def test_a_users_own_drop_in_stays(with_surplus: Host) -> None:
    host = with_surplus
    mine = host.units / f"{OLD}.d" / "50-mine.conf"
    mine.write_text("[Service]\nNice=5\n")
    host.reconcile(owning(host))
    assert sorted(path.name for path in mine.parent.iterdir()) == ["50-mine.conf"]


def test_a_directory_that_matches_one_of_our_patterns_stays(with_surplus: Host) -> None:
    directory = Path(with_surplus.path("worker-old.env.d/worker-x.env"))
    directory.mkdir(parents=True)
    wanted = owning(with_surplus)
    wanted["owned"]["files"].append(with_surplus.path("worker-*"))
    assert "delete 3 files" in with_surplus.reconcile(wanted, check=True).pending[-1].text
    with_surplus.reconcile(wanted)
    assert directory.is_dir()


def test_a_directory_that_is_named_as_a_whole_is_deleted_with_its_content(host: Host) -> None:
    other, own = Path(host.path("other")), Path(host.path("shop-broker.restore"))
    other.mkdir()
    (other / "file").touch()
    (own / "data/appendonlydir").mkdir(parents=True)
    (own / "snapshot.rdb").touch()
    (own / "link").symlink_to(other)
    wanted = {"owned": {"trees": [str(own), host.path("missing")]}}
    assert str(own) in str(host.reconcile(wanted, check=True).pending)
    assert own.is_dir()
    assert host.reconcile(wanted).changed == [str(own)]
    assert not own.exists()
    own.symlink_to(other)
    assert host.reconcile(wanted).changed == [str(own)]
    assert (own.is_symlink(), (other / "file").exists()) == (False, True)
    assert host.reconcile(wanted).changed == []


SCHEDULE = "beat/celerybeat-schedule"


@pytest.mark.parametrize("linked", ["shop", "shop/beat"])
def test_no_link_leads_root_to_a_file_of_another_application(host: Host, linked: str) -> None:
    """The application's user owns its state, and may put a link there at any time."""
    other = Path(host.path("other"))
    (other / SCHEDULE).parent.mkdir(parents=True)
    (other / SCHEDULE).touch()
    place = Path(host.path(linked))
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(other if linked == "shop" else other / "beat")
    with pytest.raises(ReconcileError, match=f"{linked} is a link or not a directory"):
        host.reconcile({"owned": {"files": [host.path(f"shop/{SCHEDULE}*")]}})
    assert (other / SCHEDULE).exists()


def test_a_surplus_link_is_deleted_instead_of_what_it_leads_to(host: Host) -> None:
    other, own = Path(host.path("schedule")), Path(host.path(f"shop/{SCHEDULE}"))
    other.touch()
    own.parent.mkdir(parents=True)
    own.symlink_to(other)
    assert host.reconcile({"owned": {"files": [f"{own}*"]}}).changed == [str(own)]
    assert (other.exists(), own.is_symlink()) == (True, False)


def test_links_that_only_root_can_make_are_followed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may have /opt on another disk."""
    pins = Path(host.path("disk/shop/pins"))
    pins.mkdir(parents=True)
    (pins / "worker-old").symlink_to("../releases/1")
    Path(host.path("opt")).symlink_to("disk")
    monkeypatch.setattr(surplus, "_others_write", lambda path: False)
    host.reconcile({"owned": {"files": [host.path("opt/shop/pins/worker-*")]}})
    assert list(pins.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "mode", "others"),
    [(0, 0o755, False), (0, 0o775, True), (0, 0o1777, True), (4242, 0o700, True)],
)
def test_any_directory_in_the_path_may_let_others_write(
    monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, others: bool
) -> None:
    def state(path: Path) -> SimpleNamespace:
        one = str(path) == "/var/lib/shop"
        return SimpleNamespace(st_uid=owner if one else 0, st_mode=mode if one else 0o755)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", state)
        found = surplus._others_write("/var/lib/shop/beat/celerybeat-schedule")
    assert found is others


def test_a_packages_directory_stays_when_our_last_file_is_deleted(with_surplus: Host) -> None:
    conf = Path(with_surplus.path("nginx/conf.d"))
    conf.mkdir(parents=True)
    (conf / "shop-web.conf").write_text("server {}\n")
    wanted = owning(with_surplus)
    wanted["owned"]["files"].append(f"{conf}/shop-web.conf")
    with_surplus.reconcile(wanted)
    assert list(conf.iterdir()) == []
    assert not (with_surplus.units / f"{OLD}.d").exists()


OTHERS = ("shop-web.service", "shop-backup.timer", "shop-linked.service", "shop-packaged.service")


@pytest.fixture
def with_others(running: Host) -> Host:
    """Return a host with units, links and files of a user that have names of ours."""
    for name in OTHERS[:2]:
        (running.units / name).write_text("[Service]\nExecStart=/usr/bin/gunicorn\n")
    elsewhere = Path(running.path("elsewhere"))
    elsewhere.mkdir()
    (elsewhere / OTHERS[2]).write_text("[Service]\nExecStart=/usr/bin/true\n")
    (running.units / OTHERS[2]).symlink_to(elsewhere / OTHERS[2])
    for name in OTHERS:
        running.systemd.add(name, running=True)
    packaged = elsewhere / OTHERS[3]
    packaged.write_text("[Service]\nExecStart=/usr/bin/packaged\n")
    running.systemd.units[OTHERS[3]].state["FragmentPath"] = str(packaged)
    return running


@pytest.mark.parametrize("check", [True, False])
def test_what_others_have_put_there_under_such_names_is_not_touched(
    with_others: Host, check: bool
) -> None:
    host = with_others
    wanted = worker(host)
    wanted["owned"] = {
        "units": ["shop-*.service", "shop-*.timer"],
        "files": [f"{host.units}/shop-*.service", f"{host.units}/shop-*.timer"],
    }
    before = sorted(host.root.rglob("*"))
    report = host.reconcile(wanted, check=check)
    assert [item.unit for item in report.pending if item.action == "remove"] == []
    assert host.systemd.did() == []
    assert sorted(host.root.rglob("*")) == before


def test_an_interrupted_removal_is_finished_by_the_next_run(with_surplus: Host) -> None:
    host = with_surplus

    def kill(command: str) -> None:
        if command.startswith("systemctl disable"):
            raise Killed

    host.systemd.before = kill
    with pytest.raises(Killed):
        host.reconcile(owning(host))
    host.systemd.before = lambda command: None
    host.reconcile(owning(host))
    assert host.systemd.units[OLD].state["UnitFileState"] == "disabled"
    # systemd forgets a unit that is stopped and disabled, so only its files show that it existed.
    del host.systemd.units[OLD]
    Path(host.path("worker-old.env")).write_text("A=1\n")
    report = host.reconcile(owning(host), apply=False)
    why = ["not in the inventory: delete 1 file", host.path("worker-old.env")]
    assert whys(report.pending) == [("", "remove", why)]
    host.reconcile(owning(host))
    assert not Path(host.path("worker-old.env")).exists()
    assert host.reconcile(owning(host)).done == []


# --- check mode --------------------------------------------------------------------------------------


def whole_tree(host: Host) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in host.root.rglob("*") if path.is_file()}


def test_check_mode_on_a_bare_host_writes_nothing_and_names_all_changes(host: Host) -> None:
    wanted = owning(host)
    wanted["directories"] += [{"path": host.path("d"), "owner": "to-come", "group": "to-come"}]
    wanted["sysusers"] = [host.file("sysusers.d/shop.conf", "u to-come -\n")]
    wanted["files"] += [{**host.file("d/f", "x\n"), "owner": "to-come", "group": "to-come"}]
    wanted["files"] += [host.file("pki/host.crt", None)]
    wanted["checks"] = [{"command": ["no-such-daemon", "-t"], "files": ["*"]}]
    wanted["packages"] = ["nginx-light"]
    wanted["releases"] = [{"path": host.path("releases/a1"), "what": "release"}]
    wanted["links"] += [{"path": host.path("current"), "target": "releases/a1"}]
    before = whole_tree(host)
    report = host.reconcile(wanted, check=True)
    assert whole_tree(host) == before
    assert host.systemd.did() == []
    assert whys(report.pending) == [
        ("", "install", ["nginx-light"]),
        ("", "build", ["release a1"]),
        (UNIT, "start", ["new"]),
        (
            "",
            "write",
            [
                *map(host.path, ("sysusers.d/shop.conf", "pins", "d", "d/f", "pki/host.crt")),
                host.paths.recorder,
            ],
        ),
        ("", "link", [f"{host.path('current')}: releases/a1"]),
    ]
    assert report.done == []
    assert f"enable {UNIT}" in report.changed


def test_check_mode_names_what_would_be_removed(with_surplus: Host) -> None:
    host = with_surplus
    before = whole_tree(host)
    wanted = owning(host)
    wanted["units"][0]["values"] = "changed"
    report = host.reconcile(wanted, check=True)
    assert whys(report.pending) == [
        (UNIT, "restart", ["values new"]),
        (OLD, "remove", ["not in the inventory: drain, stop, delete 3 files"]),
    ]
    assert whole_tree(host) == before
    assert host.systemd.did() == []


def test_check_mode_after_a_run_has_nothing_to_foretell(running: Host) -> None:
    report = running.reconcile(worker(running), check=True)
    assert (report.changes, report.pending, report.diff) == ([], [], [])


def test_a_file_of_one_role_restarts_a_unit_of_another_that_reads_it(running: Host) -> None:
    wanted = worker(running, env="A=2\n", text=f"{UNIT_TEXT}Nice=2\n")
    units = {"units": wanted.pop("units")}
    for parts in ((("files", wanted), ("units", units)), (("units", units), ("files", wanted))):
        report = running.run(*parts, check=True)
        (item,) = report.pending
        assert (item.part, item.unit, item.action) == ("units", UNIT, "restart")
        assert item.why == ("unit shop-worker@.service changed", "environment A changed")
        assert {change.part for change in report.changes} == {"files"}


def test_a_unit_that_two_roles_want_is_planned_once(running: Host) -> None:
    wanted = worker(running, env="A=2\n")
    report = running.run(("one", wanted), ("two", {"units": wanted["units"]}), check=True)
    assert [(p.part, p.unit) for p in report.pending] == [("one", UNIT)]


def test_a_drop_in_that_will_be_written_or_deleted_is_foretold(running: Host) -> None:
    wanted = worker(running)
    drop_in = f"units/{UNIT}.d/10-fleet.conf"
    wanted["files"].append(host_file := running.file(drop_in, f"{HEADER}[Service]\nNice=1\n"))
    expected = [(UNIT, "restart", ["drop-in 10-fleet.conf new"])]
    assert whys(running.reconcile(wanted, check=True).pending) == expected
    assert whys(running.reconcile(wanted).done) == expected
    wanted["files"].remove(host_file)
    wanted["owned"] = {"files": [f"{running.units}/shop-worker@*.service.d/10-fleet.conf"]}
    (restart, remove) = running.reconcile(wanted, check=True).pending
    assert restart.why == ("drop-in 10-fleet.conf removed",)
    assert remove.why == ("not in the inventory: delete 1 file", running.path(drop_in))


def test_a_file_that_is_not_written_yet_restarts_its_readers(running: Host) -> None:
    wanted = worker(running)
    wanted["units"][0]["files"].append(running.path("host.key"))
    Path(running.path("host.key")).write_text("old\n")
    running.reconcile(wanted)
    assert running.reconcile(wanted, check=True).pending == []
    wanted["files"].append(running.file("host.key", None))
    expected = [(UNIT, "restart", ["file host.key changed"])]
    assert whys(running.reconcile(wanted, check=True).pending) == expected
    with pytest.raises(ReconcileError, match=r"host.key has no content"):
        running.reconcile(wanted)


def test_several_roles_at_once_need_check_mode() -> None:
    with pytest.raises(ReconcileError, match="run in check mode"):
        reconciler.reconcile([("a", parse({})), ("b", parse({}))], ReconcileOptions(), check=False)


# --- Redis, live -------------------------------------------------------------------------------------

REDIS = "redis@shop-broker.service"
ACCESS = {"host": "redis1", "port": 6379, "ca": "/ca.crt", "user": "admin", "password": "hush"}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def redis(
    host: Host,
    memory: str = "256mb",
    databases: str = "1",
    admin: str = "hush",
    worker: str | None = ">w1 +get",
) -> dict[str, Any]:
    """A server whose file has `admin` and, unless it was removed, `worker`."""
    users = f"user admin on >{admin} +acl\n"
    users += f"user worker on {worker}\n" if worker else ""
    conf = f"maxmemory {memory}\ndatabases {databases}\ntls-cert-file {host.path('host.crt')}\n"
    names = ("redis.conf", "users.acl", "host.crt", "host.key")
    return {
        "files": [host.file("redis.conf", conf), host.file("users.acl", users)],
        "units": [
            {
                "name": REDIS,
                "on_change": "live",
                "files": [host.path(name) for name in names],
                "redis": ACCESS,
            }
        ],
    }


@pytest.fixture
def with_redis(host: Host) -> Host:
    for name in ("host.crt", "host.key"):
        Path(host.path(name)).write_text("1\n")
    host.reconcile(redis(host))
    host.redis.add("worker", "w1", "+get")
    host.redis.add("admin", "hush", "+acl")
    return host


def test_settings_of_redis_are_set_live_and_recorded(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, memory="512mb")
    expected = [(REDIS, "live", ["setting maxmemory 256mb → 512mb"])]
    assert whys(host.reconcile(wanted, check=True).pending) == expected
    assert host.redis.commands == []
    assert whys(host.reconcile(wanted).done) == expected
    assert host.redis.commands == ["CONFIG SET maxmemory 512mb"]
    assert host.systemd.did("restart") == []
    assert host.reconcile(wanted).pending == []


def test_a_new_certificate_is_loaded_live_and_a_new_key_restarts(with_redis: Host) -> None:
    host = with_redis
    Path(host.path("host.crt")).write_text("2\n")
    assert whys(host.reconcile(redis(host)).done) == [(REDIS, "live", ["file host.crt changed"])]
    assert host.redis.commands == ["PING", f"CONFIG SET tls-cert-file {host.path('host.crt')}"]
    Path(host.path("host.key")).write_text("2\n")
    assert whys(host.reconcile(redis(host)).done) == [(REDIS, "restart", ["file host.key changed"])]


def test_a_new_key_that_can_be_staged_is_loaded_live(host: Host) -> None:
    Path(host.path("run")).mkdir()
    for name in ("host.crt", "host.key"):
        Path(host.path(name)).write_text("1\n")
    wanted = redis(host)
    staged = host.path("run/host.key")
    wanted["units"][0]["redis"] = {**ACCESS, "staged_key": staged}
    wanted["files"][0]["content"] += "tls-key-file /run/credentials/redis@a.service/host.key\n"
    host.reconcile(wanted)
    for name in ("host.crt", "host.key"):
        Path(host.path(name)).write_text("2\n")
    expected = [(REDIS, "live", ["file host.crt, host.key changed"])]
    assert whys(host.reconcile(wanted, check=True).pending) == expected
    assert not os.path.exists(staged)
    assert whys(host.reconcile(wanted).done) == expected
    assert Path(staged).read_text() == "2\n"
    (command,) = (line for line in host.redis.commands if line.startswith("CONFIG SET"))
    assert f"tls-key-file {staged}" in command
    assert f"tls-cert-file {host.path('host.crt')}" in command
    assert host.reconcile(wanted).pending == []
    assert host.systemd.did("restart") == []


def test_a_directive_that_redis_only_reads_at_its_start_restarts_it(with_redis: Host) -> None:
    wanted = redis(with_redis, memory="512mb", databases="2")
    report = with_redis.reconcile(wanted, restart=False)
    assert (report.done, with_redis.redis.commands) == ([], [])
    assert whys(with_redis.reconcile(wanted).done) == [
        (REDIS, "restart", ["setting databases 1 → 2", "setting maxmemory 256mb → 512mb"])
    ]


def replicated(host: Host, **more: Any) -> dict[str, Any]:
    wanted = redis(host, **more)
    sentinels = [{"host": f"redis{number}", "port": 26379} for number in (1, 2, 3)]
    known = {"primary": "shop-broker", "sentinels": sentinels, "role_file": host.path("role.conf")}
    wanted["units"][0]["redis"] = {**ACCESS, **known}
    return wanted


PRIMARY = "role:master\r\nslave0:ip=redis2,port=6379,state=online,lag=0\r\n"
ALONE = "role:master\r\nconnected_slaves:0\r\n"
REPLICA = "role:slave\r\nmaster_link_status:up\r\n"
COPYING = "role:slave\r\nmaster_link_status:down\r\n"


def test_a_primary_moves_before_it_restarts_and_copies_everything_afterwards(
    with_redis: Host,
) -> None:
    host = with_redis
    host.redis.replication, host.redis.primaries = [PRIMARY, COPYING, REPLICA], [6379, 6379, 6380]
    restarted: list[bool] = []
    host.redis.before = lambda _: restarted.append(bool(host.systemd.did("restart")))
    done = host.reconcile(replicated(host, databases="2")).done
    assert [(item.unit, item.action) for item in done] == [(REDIS, "restart")]
    asked, pause = "INFO replication", "CLIENT PAUSE 5000 WRITE"
    where = "SENTINEL GET-MASTER-ADDR-BY-NAME shop-broker"
    before = [asked, where, pause, "SENTINEL FAILOVER shop-broker", where, pause, where]
    assert host.redis.commands == [*before, asked, asked]
    assert restarted == [False] * len(before) + [True] * 2
    # It starts as a replica of the new primary.
    assert Path(host.path("role.conf")).read_text() == "replicaof redis1 6380\n"


@pytest.mark.parametrize(
    ("before", "refused", "commands", "warnings"),
    [
        (REPLICA, {}, [], 0),
        (ALONE, {}, [], 0),
        (PRIMARY, {"SENTINEL FAILOVER": "NOGOODSLAVE"}, ["CLIENT UNPAUSE"], 1),
    ],
)
def test_what_no_replica_can_replace_restarts_as_it_is(
    with_redis: Host, before: str, refused: dict[str, str], commands: list[str], warnings: int
) -> None:
    host = with_redis
    host.redis.replication, host.redis.refused = [before, PRIMARY], refused
    report = host.reconcile(replicated(host, databases="2"))
    assert report.done
    own = [one for one in host.redis.commands if not one.startswith(("INFO", "SENTINEL"))]
    assert own[-1:] == commands
    assert [f"{REDIS} was not moved" in one for one in report.warnings] == [True] * warnings


@pytest.mark.parametrize(("needed", "is_enough"), [(0, True), (1, True), (2, False)])
def test_a_primary_waits_for_the_replicas_that_it_needs(
    with_redis: Host, needed: int, is_enough: bool
) -> None:
    host, wanted = with_redis, replicated(with_redis)
    wanted["units"][0]["redis"]["replicas"] = needed
    host.redis.replication = [PRIMARY]
    if is_enough:
        host.reconcile(wanted)
    else:
        with pytest.raises(ReconcileError, match=f"{REDIS} has no connection to its replicas"):
            host.reconcile(wanted)


def test_a_primary_without_a_replica_is_waited_for(with_redis: Host) -> None:
    host, wanted = with_redis, replicated(with_redis)
    host.redis.replication = [ALONE]
    # Replicas that other hosts are about to start.
    assert host.reconcile(wanted, restart=False).done == []
    with pytest.raises(ReconcileError, match=f"{REDIS} has no connection to its replicas"):
        host.reconcile(wanted)
    host.redis.replication = [COPYING]
    with pytest.raises(ReconcileError, match="no connection to its primary"):
        host.reconcile(wanted)


@pytest.mark.parametrize("state", [ALONE, COPYING])
def test_a_server_does_not_wait_for_those_with_a_certificate_that_is_not_valid(
    with_redis: Host, state: str
) -> None:
    """They still have to restart, after a change of authorities at once or if certificates have expired."""
    host = with_redis
    host.redis.replication, host.redis.untrusted = [state], {"redis3"}
    report = host.reconcile(replicated(host, databases="2"))
    assert [(item.unit, item.action) for item in report.done] == [(REDIS, "restart")]
    assert [
        one
        for one in report.warnings
        if "waited for its replication: the Sentinel on redis3" in one
    ]
    # Also in the next run, if this one ends here.
    assert host.reconcile(replicated(host, databases="2")).done == []
    # With valid ones, it waits: those that restart later may have the only data.
    host.redis.untrusted = set()
    with pytest.raises(ReconcileError, match="has no connection to its"):
        host.reconcile(replicated(host, databases="2"))


def test_a_sentinel_that_hangs_takes_none_of_a_servers_time(with_redis: Host) -> None:
    host = with_redis

    def hang(command: str) -> None:
        if command == "PING" and "INFO replication" in host.redis.commands:
            host.systemd.now += 10_000

    host.redis.before = hang
    host.redis.replication = [ALONE] * 30 + [PRIMARY]
    (done,) = host.reconcile(replicated(host, databases="2")).done
    assert (done.unit, done.action) == (REDIS, "restart")
    hung = host.systemd.now
    assert hung > 10_000
    # Usually the replication works again before.
    host.redis.replication = [ALONE] * 5 + [PRIMARY]
    host.reconcile(replicated(host, databases="3"))
    assert host.systemd.now < hung + 100


# The worker's previous rules, in addition to its new ones.
KEPT = f"(resetchannels -@all +get) on #{sha('w1')}"
STILL = [(REDIS, "live", ["user worker: what was allowed before still is"])]


def test_a_restart_that_other_settings_need_ends_no_password(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, databases="2", worker=">w2 +get")
    (item,) = host.reconcile(wanted).done
    assert item.action == "restart"
    assert host.redis.commands == [
        "ACL GETUSER worker",
        f"ACL SETUSER worker reset on >w2 +get {KEPT}",
    ]
    # The end of the run takes the old one back.
    assert whys(host.reconcile(wanted, check=True).pending) == STILL
    assert host.reconcile(wanted, finish=True).done
    assert host.reconcile(wanted).pending == []


def killed_at_a_user(host: Host, wanted: dict[str, Any]) -> None:
    """Kill a run when Redis has accepted a user, like the settings before, but this is not recorded."""

    def kill(command: str) -> None:
        if command.startswith("ACL SETUSER"):
            raise Killed

    host.redis.before = kill
    with pytest.raises(Killed):
        host.reconcile(wanted)
    host.redis.before = lambda command: None


def test_a_run_that_is_killed_while_it_gives_rights_back_is_finished_by_the_next(
    with_redis: Host,
) -> None:
    host, wanted = with_redis, redis(with_redis, databases="2", worker=">w2 +get")
    killed_at_a_user(host, wanted)
    assert whys(host.reconcile(wanted, check=True).pending) == STILL


def test_a_restart_ends_passwords_that_are_to_end_at_once(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, databases="2", worker=">w2 +get")
    assert host.reconcile(wanted, revoke=True).done
    assert host.redis.commands == []
    assert host.reconcile(wanted).pending == []


def test_a_user_only_gains_rights_until_the_end_of_the_run(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, worker=">w2 +set")
    expected = [(REDIS, "live", ["user worker changed"])]
    assert whys(host.reconcile(wanted, check=True).pending) == expected
    assert whys(host.reconcile(wanted).done) == expected
    assert host.redis.commands == [
        "ACL GETUSER worker",
        f"ACL SETUSER worker reset on >w2 +set {KEPT}",
    ]
    host.redis.commands.clear()

    for check in (True, False):
        report = host.reconcile(wanted, check=check)
        assert (whys(report.pending), report.done) == (STILL, [])
    assert host.redis.commands == []

    assert whys(host.reconcile(wanted, finish=True).done) == STILL
    assert host.redis.commands == ["ACL SETUSER worker reset on >w2 +set"]
    for options in ({"check": True}, {}, {"finish": True}):
        assert host.reconcile(wanted, **options).pending == []
    assert len(host.redis.commands) == 1


def test_a_removed_user_stays_until_the_end_of_the_run(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, worker=None)
    assert whys(host.reconcile(wanted).done) == [(REDIS, "live", ["user worker removed"])]
    assert host.redis.commands == []
    assert whys(host.reconcile(wanted).pending) == STILL
    assert whys(host.reconcile(wanted, finish=True).done) == STILL
    assert host.redis.commands == ["ACL DELUSER worker"]
    assert host.reconcile(wanted, check=True).pending == []


def test_a_user_who_comes_back_before_the_end_counts_as_never_removed(
    with_redis: Host,
) -> None:
    host, wanted = with_redis, redis(with_redis, worker=">w2 +set")
    host.reconcile(redis(host, worker=None))
    why = ["user worker new", *STILL[0][2]]
    assert whys(host.reconcile(wanted).done) == [(REDIS, "live", why)]
    assert host.redis.commands[-1] == f"ACL SETUSER worker reset on >w2 +set {KEPT}"
    assert whys(host.reconcile(wanted, finish=True).done) == STILL


def test_a_new_user_needs_no_finishing_step(with_redis: Host) -> None:
    del with_redis.redis.users["worker"]
    with_redis.reconcile(redis(with_redis, worker=">w2 +set"))
    assert with_redis.redis.commands[-1] == "ACL SETUSER worker reset on >w2 +set"
    assert with_redis.reconcile(redis(with_redis, worker=">w2 +set")).pending == []


def test_a_change_before_the_end_is_set_and_the_end_still_comes(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, worker=">w2 +set", memory="512mb")
    host.reconcile(redis(host, worker=">w2 +set"))
    host.redis.commands.clear()
    why = ["setting maxmemory 256mb → 512mb", *STILL[0][2]]
    assert whys(host.reconcile(wanted).done) == [(REDIS, "live", why)]
    assert host.redis.commands == ["CONFIG SET maxmemory 512mb"]
    assert whys(host.reconcile(wanted).pending) == STILL


def test_a_restarted_server_has_no_old_rights(with_redis: Host) -> None:
    wanted = redis(with_redis, worker=">w2 +set")
    with_redis.reconcile(wanted)
    with_redis.systemd.crash(REDIS)
    assert with_redis.reconcile(wanted, check=True).pending == []


@pytest.mark.parametrize("taken_back", [False, True])
def test_the_next_run_knows_what_a_killed_run_has_set(with_redis: Host, taken_back: bool) -> None:
    host, wanted = with_redis, redis(with_redis, worker=">w2 +set", memory="512mb")
    killed_at_a_user(host, wanted)
    wanted = redis(host) if taken_back else wanted
    memory = "256mb" if taken_back else "512mb"
    why = [f"setting maxmemory (not known) → {memory}", "user worker changed"]
    assert whys(host.reconcile(wanted, check=True).pending) == [(REDIS, "live", why)]
    assert whys(host.reconcile(wanted).done) == [(REDIS, "live", why)]
    assert whys(host.reconcile(wanted, finish=True).done) == STILL
    assert host.reconcile(wanted, check=True).pending == []


def test_an_interrupted_finishing_step_is_done_by_the_next_run(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, worker=">w2 +set")
    host.reconcile(wanted)
    host.redis.refused["ACL SETUSER"] = "it gave no answer"
    with pytest.raises(ReconcileError, match="it gave no answer"):
        host.reconcile(wanted, finish=True)
    host.redis.refused.clear()
    assert whys(host.reconcile(wanted).pending) == STILL
    assert whys(host.reconcile(wanted, finish=True).done) == STILL


def broker(host: Host) -> dict[str, Any]:
    """Return a broker with the queue `mail`, which the user `operator` may use."""
    wanted = redis(host)
    wanted["files"][1]["content"] += "user operator on >o +llen +del ~mail ~mail??[369]\n"
    wanted["units"][0]["redis"] = {**ACCESS, "queues": True}
    return wanted


LEFT = "tasks wait in queues that the inventory does not name"


def test_tasks_in_a_queue_that_left_keep_it_for_the_operator_until_it_is_empty(host: Host) -> None:
    for name in ("host.crt", "host.key"):
        Path(host.path(name)).write_text("1\n")
    wanted = broker(host)
    host.reconcile(wanted)
    host.redis.add("operator", "o", "+llen +del")
    host.redis.lists = {"mail": 7}
    assert host.reconcile(wanted).pending == []
    host.redis.lists |= {"old": 2, "old\x06\x169": 1}
    for check in (True, False):
        report = host.reconcile(wanted, check=check)
        assert (whys(report.pending), report.done) == ([(REDIS, "live", [LEFT])], [])
        assert report.waiting == {"old": 3}
    assert not [one for one in host.redis.commands if one.startswith("ACL")]

    own = "ACL SETUSER operator reset on >o +llen +del ~mail ~mail??[369]"
    kept = "(resetchannels -@all +llen +del ~old ~old??[369])"
    why = "user operator: what was allowed before still is"
    for expected in (LEFT, why):
        assert whys(host.reconcile(wanted, finish=True).done) == [(REDIS, "live", [expected])]
        assert host.redis.commands[-1] == f"{own} {kept}"
    # That ends no password, so the operator's connections stay.
    number = len(host.redis.commands)
    assert host.reconcile(wanted, revoke=True).done == []
    assert [one for one in host.redis.commands[number:] if one.startswith(("ACL", "CLIENT"))] == []
    # A server that restarts by itself loses the right, but the tasks are found again.
    host.systemd.crash(REDIS)
    assert whys(host.reconcile(wanted, check=True).pending) == [(REDIS, "live", [LEFT])]
    assert host.reconcile(wanted, finish=True).waiting == {"old": 3}

    host.redis.lists = {"mail": 7}
    report = host.reconcile(wanted, finish=True)
    assert (whys(report.done), report.waiting) == ([(REDIS, "live", [why])], {})
    assert host.redis.commands[-1] == own
    assert host.reconcile(wanted, check=True).pending == []


def test_a_broker_that_does_not_say_what_waits_is_left_as_it_is(host: Host) -> None:
    for name in ("host.crt", "host.key"):
        Path(host.path(name)).write_text("1\n")
    wanted = broker(host)
    host.reconcile(wanted)
    host.redis.lists = {"old": 2}
    host.redis.refused["SCAN"] = "it refused SCAN: NOPERM"
    for options in ({"check": True}, {}):
        report = host.reconcile(wanted, **options)
        assert (report.pending, report.warnings) == ([], [])
    # It matters at the end of the run.
    (warning,) = host.reconcile(wanted, finish=True).warnings
    assert warning.startswith(f"{REDIS} does not say whether {LEFT}: it refused SCAN")


def test_a_server_that_refuses_the_login_is_restarted(with_redis: Host) -> None:
    with_redis.redis.refused["PING"] = "AUTH failed: WRONGPASS"
    wanted = redis(with_redis, admin="new")
    for check in (True, False):
        assert whys(with_redis.reconcile(wanted, check=check).pending) == [
            (REDIS, "restart", ["user admin changed"])
        ]


def test_a_refusal_of_the_server_is_reported_and_the_next_run_retries(with_redis: Host) -> None:
    host, wanted = with_redis, redis(with_redis, memory="1kb")
    host.redis.refused["CONFIG SET"] = "it refused CONFIG SET: out of memory"
    with pytest.raises(ReconcileError) as caught:
        host.reconcile(wanted)
    assert f"{REDIS} did not accept its new settings while running: it refused" in str(caught.value)
    host.redis.refused.clear()
    assert [p.action for p in host.reconcile(wanted).done] == ["live"]


# --- the module ---------------------------------------------------------------------------------------


def test_only_one_run_at_a_time_reconciles_a_host(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with reconcile_lock.exclusive(lock), open(lock, "w") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with reconcile_lock.exclusive(lock):
        pass


def test_other_users_can_t_take_the_lock(tmp_path: Path) -> None:
    """A process that can open a file can lock it; an earlier version made the file readable."""
    lock = tmp_path / "lock"
    lock.touch(0o644)
    with reconcile_lock.exclusive(lock):
        assert mode(str(lock)) == 0o600


def test_a_plan_waits_for_a_reconciling_run_and_creates_no_lock_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with reconcile_lock.shared(lock):
        assert not lock.exists()
    lock.touch()
    with (
        reconcile_lock.shared(lock),
        reconcile_lock.shared(lock),
        open(lock, "w") as second,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with reconcile_lock.exclusive(lock), open(lock) as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_an_error_of_the_host_is_reported_with_its_path(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    wanted = {"files": [host.file("a", "1\n")]}
    monkeypatch.setattr(
        reconciler, "HostReconciler", lambda *_, check: host.reconciler(("", wanted))
    )
    alone = reconcile_lock.exclusive
    monkeypatch.setattr(reconciler, "exclusive", lambda: alone(tmp_path / "lock"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReconcileError) as caught:
        reconciler.reconcile([("", parse({}))], ReconcileOptions(), check=False)
    assert str(caught.value).startswith(f"{host.path('a')}: No space left on device. Fix that")


def test_the_module_reports_what_it_did(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        reconciler,
        "HostReconciler",
        lambda parts, options, check: host.reconciler(("", worker(host)), check=check),
    )
    lock = tmp_path / "lock"
    alone = reconcile_lock.exclusive
    monkeypatch.setattr(reconciler, "exclusive", lambda: alone(lock))
    looked: list[Path] = []
    undisturbed = reconcile_lock.shared

    def shared() -> AbstractContextManager[None]:
        looked.append(lock)
        return undisturbed(lock)

    monkeypatch.setattr(reconciler, "shared", shared)
    assert reconciler.reconcile([("", parse({}))], ReconcileOptions(), check=True).done == []
    assert (looked, lock.exists()) == ([lock], False)
    done = reconciler.reconcile([("", parse({}))], ReconcileOptions(), check=False).done
    assert [p.action for p in done] == ["start"]
    assert lock.exists()


def test_the_time_of_a_hosts_last_change_is_recorded(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = worker(host)
    wanted["files"].append(host.file("a", "1\n"))
    monkeypatch.setattr(
        reconciler,
        "HostReconciler",
        lambda _, options, check: host.reconciler(("", wanted), check=check, **vars(options)),
    )
    monkeypatch.setattr(reconciler, "exclusive", lambda: contextlib.nullcontext())
    monkeypatch.setattr(reconciler, "shared", lambda: contextlib.nullcontext())
    path = Path(host.paths.changed) / "shop"

    def touched(*, check: bool = False, **more: Any) -> bool:
        path.unlink(missing_ok=True)
        options = ReconcileOptions(manifest=str(tmp_path / "shop/manifest.json"), **more)
        reconciler.reconcile([("", parse({}))], options, check=check)
        return path.exists()

    assert not touched(check=True)
    assert touched()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert not touched()
    Path(host.path("a")).write_text("edited\n")
    assert not touched(trial=True)
    assert touched()
    host.systemd.units[UNIT].state["ActiveState"] = "inactive"
    assert touched()
    # Files were changed, but the unit does not start.
    Path(host.path("a")).write_text("edited\n")
    host.systemd.units[UNIT].state["ActiveState"] = "inactive"
    host.systemd.refused["systemctl start"] = "no"
    with pytest.raises(ReconcileError):
        touched()
    assert path.exists()


def test_systemd_is_asked_about_all_units_in_one_call(running: Host) -> None:
    wanted = worker(running)
    for number in range(50):
        name = f"shop-worker@{number}.service"
        running.systemd.units[name] = FakeUnit(
            {"ActiveState": "active", "UnitFileState": "enabled"},
            loaded={f"{running.units}/shop-worker@.service": UNIT_TEXT},
        )
        wanted["units"].append({"name": name, "on_change": "nothing"})
    running.reconcile(wanted)
    assert len(running.systemd.commands) == 1
