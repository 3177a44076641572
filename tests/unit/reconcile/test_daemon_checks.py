"""Daemons' own checks of files that are not in their places yet, and of those that are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    daemon_checks as validate,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.daemon_checks import (
    Checks,
    trial,
    trial_configuration,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import TO_COME
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.namespace import (
    Candidate,
    NamespaceError,
    with_candidates,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import Completed
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Check

from tests.programs import required


def candidate(text: str) -> Candidate:
    return Candidate(text.encode(), 0o644, os.getuid(), os.getgid())


@pytest.fixture
def namespace() -> None:
    """For tests that mount."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace takes root")
    try:
        with_candidates({}, list)
    except NamespaceError as error:
        pytest.fail(
            f"root is granted no mount namespace here, a container needs CAP_SYS_ADMIN: {error}"
        )


# --- trying files in their places --------------------------------------------------------------------


@pytest.mark.usefixtures("namespace")
class TestNamespace:
    def test_candidates_are_seen_in_their_places_and_nowhere_else(self, tmp_path: Path) -> None:
        tree = tmp_path / "etc"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub/kept").write_text("kept")
        (tree / "changed").write_text("old")
        (tree / "link").symlink_to("changed")
        (tree / "script").write_text("#!/bin/sh\n")
        (tree / "script").chmod(0o755)
        candidates = {
            str(tree / "changed"): candidate("new"),
            str(tree / "sub/fresh"): candidate("fresh"),
            str(tree / "absent/deep/file"): candidate("deep"),
        }

        def look() -> list[str]:
            return [
                *sorted(str(path.relative_to(tree)) for path in tree.rglob("*")),
                (tree / "link").read_text(),
                (tree / "sub/kept").read_text(),
                (tree / "absent/deep/file").read_text(),
                oct((tree / "script").stat().st_mode),
            ]

        before = look_at(tree)
        assert with_candidates(candidates, look) == [
            *("absent", "absent/deep", "absent/deep/file", "changed", "link", "script", "sub"),
            *("sub/fresh", "sub/kept", "new", "kept", "deep", "0o100755"),
        ]
        assert look_at(tree) == before

    def test_a_link_on_the_way_does_not_lead_to_the_live_file(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real/a.conf").write_text("live")
        (tmp_path / "link").symlink_to("real")
        path = tmp_path / "link/a.conf"
        assert with_candidates({str(path): candidate("new")}, lambda: [path.read_text()]) == ["new"]
        assert path.read_text() == "live"

    def test_the_root_directory_is_never_stood_in_for(self) -> None:
        path = Path(f"/no-such-{os.getpid()}/x")
        with pytest.raises(NamespaceError, match="root directory"):
            with_candidates({str(path): candidate("x")}, list)
        assert not path.parent.exists()

    def test_what_a_check_leaves_in_run_goes(self) -> None:
        name = Path(f"/run/celery-fleet-test-{os.getpid()}")

        def leave() -> list[str]:
            name.write_text("pid")
            return [name.read_text()]

        assert with_candidates({}, leave) == ["pid"]
        assert not name.exists()

    def test_a_failure_in_it_is_told(self) -> None:
        def fail() -> list[str]:
            raise OSError("oops")

        with pytest.raises(NamespaceError, match="oops"):
            with_candidates({}, fail)

    def test_nothing_of_it_is_left_behind(self, tmp_path: Path) -> None:
        with_candidates({str(tmp_path / "x"): candidate("x")}, list)
        # Other programs mount and unmount as they please.
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
        assert list(tmp_path.iterdir()) == []


def look_at(tree: Path) -> dict[str, object]:
    return {
        str(path): (path.lstat().st_ino, path.read_bytes() if path.is_file() else None)
        for path in tree.rglob("*")
    }


# --- which checks, and what they say -----------------------------------------------------------------


class Asked:
    """A runner that keeps what it was asked and answers the same to all."""

    def __init__(self, answer: Completed | None = None) -> None:
        self.commands: list[Sequence[str]] = []
        self.answer = answer or Completed(0, "")

    def __call__(self, command: Sequence[str]) -> Completed:
        self.commands.append(command)
        return self.answer


NGINX = Check(("/n/*.conf",), command=("sh", "-t"))


def checks(changed: Sequence[str], runner: systemd.Runner, units: Sequence[str] = ()) -> Checks:
    return Checks([NGINX], changed, units, "/units/", runner)


def test_a_check_runs_for_its_files_and_names_them() -> None:
    asked = Asked(Completed(1, "unknown directive\n"))
    assert checks(["/n/b.conf", "/n/a.conf", "/m/c.conf"], asked).refusals() == [
        "sh -t refuses /n/a.conf, /n/b.conf: unknown directive"
    ]
    assert checks(["/m/c.conf"], asked).refusals() == []
    assert len(asked.commands) == 1


def test_systemd_is_asked_for_units_whose_files_changed() -> None:
    asked = Asked()
    changed = ["w@.service", "x.service.d/1.conf", "y@.service", "z@a.service.d/1.conf", "no/unit"]
    units = ["w@a.service", "w@b.service", "x.service", "z@a.service", "z@b.service"]
    checks([f"/units/{name}" for name in changed], asked, units).refusals()
    (command,) = asked.commands
    assert command[:2] == ["systemd-analyze", "verify"]
    expected = ["w@a.service", "w@b.service", "x.service", "y@.service", "z@a.service"]
    assert sorted(command[4:]) == [f"/units/{name}" for name in expected]


def test_only_what_is_said_of_our_files_refuses() -> None:
    words = "/units/a.service.d/50-mine.conf:2: Unknown key 'Users', ignoring.\nother.service: x"
    asked = Asked(Completed(1, words))
    assert checks(["/units/a.service"], asked).refusals() == []
    asked = Asked(Completed(1, f"{words}\n/units/a.service:3: Unknown key 'Ours'\na.service: y\n"))
    assert checks(["/units/a.service"], asked).refusals() == [
        "systemd refuses a unit file: /units/a.service:3: Unknown key 'Ours'; a.service: y"
    ]


def foretold(
    runner: systemd.Runner, changed: Sequence[str], more: dict[str, Candidate] | None = None
) -> list[str]:
    candidates = {path: candidate("x") for path in changed} | (more or {})
    return checks(changed, runner).foretold(candidates)


def test_what_can_not_be_told_yet_is_left_out(tmp_path: Path) -> None:
    asked = Asked(Completed(1, "no"))
    coming = Candidate(TO_COME)
    # A certificate that is yet to be made.
    assert foretold(asked, ["/n/a.conf"], {str(tmp_path / "host.crt"): coming}) == []
    absent = Checks([Check(("/n/*",), command=("no-such-daemon",))], ["/n/a"], [], "/units/", asked)
    assert absent.foretold({"/n/a": candidate("x")}) == []
    for text in ("[Service]\nExecStart=/no/such/program\n", None):
        # A unit whose program, or whose file, is yet to come.
        path = "/units/a.service" if text else "/units/a.service.d/10.conf"
        units = checks([path], asked)
        assert units.foretold({path: candidate(text or "[Service]\n")}) == []
    assert asked.commands == []


@pytest.mark.usefixtures("namespace")
def test_a_check_sees_all_that_will_be_written(tmp_path: Path) -> None:
    conf, cert = str(tmp_path / "a.conf"), tmp_path / "pki/host.crt"

    def runner(command: Sequence[str]) -> Completed:
        return Completed(0 if cert.read_text() == "PEM" else 1, "")

    changed = [conf, str(cert)]
    found = Checks([Check((conf,), command=("sh",))], changed, [], "/units/", runner)
    assert found.foretold({conf: candidate("x"), str(cert): candidate("PEM")}) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("namespace")
def test_a_refusal_is_foretold_over_the_candidates(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("good")

    def runner(command: Sequence[str]) -> Completed:
        return Completed(1, f"it says {path.read_text()}")

    found = Checks([Check((str(path),), command=("sh",))], [str(path)], [], "/units/", runner)
    assert found.foretold({str(path): candidate("bad")}) == [f"sh refuses {path}: it says bad"]
    assert path.read_text() == "good"


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    ("line", "words"),
    [("Nice=5", ""), ("NoSuch=1", "Unknown key"), ("ExecStartPre=/no/such", "not executable")],
)
def test_a_unit_with_a_mistake_is_refused_here_and_in_the_plan(
    tmp_path: Path, line: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    required("systemd-analyze")
    directory = f"{tmp_path}/"
    path, mine = tmp_path / "a@.service", tmp_path / "a@x.service.d/50-mine.conf"
    mine.parent.mkdir()
    mine.write_text("[Service]\nUsersOwn=1\n")
    text = f"[Service]\nExecStart=/bin/sh\n{line}\n"
    found = Checks([], [str(path)], ["a@x.service"], directory, systemd.run)
    monkeypatch.setattr(Checks, "_could_start", lambda *_: True)
    told = found.foretold({str(path): candidate(text)})
    assert not path.exists()
    path.write_text(text)
    real = found.refusals()
    assert told == real
    assert words in "".join(real)
    assert bool(real) is bool(words)


# --- Redis -------------------------------------------------------------------------------------------

CONF = """\
port 0
tls-port 6379
tls-cert-file /no/such/host.crt
tls-key-file /run/credentials/no/such/host.key
tls-ca-cert-file /no/such/ca.crt
aclfile {acl}
dir /no/such/directory
supervised systemd
daemonize no
appendonly yes
save 900 1
maxmemory 100mb
"""
ACL = "user default off resetpass allkeys allchannels +@all\nuser worker on >hush -@all +ping\n"


@pytest.fixture
def redis(tmp_path: Path) -> Callable[..., str]:
    """Tries a configuration and its users; returns what the server says against them."""

    required("redis-server")

    def run(conf: str = "", acl: str = ACL) -> str:
        users, path = tmp_path / "users.acl", tmp_path / "redis.conf"
        # The server reads its users as its own user.
        path_down = [tmp_path, *tmp_path.parents]
        for directory in path_down[: path_down.index(Path(tempfile.gettempdir()))]:
            directory.chmod(0o755)
        users.write_text(acl)
        path.write_text(CONF.format(acl=users) + conf)
        return trial(str(path))

    return run


class TestTrial:
    def test_a_good_one_needs_neither_key_nor_data(self, redis: Callable[..., str]) -> None:
        assert redis() == ""

    @pytest.mark.parametrize(
        ("conf", "words"),
        [
            ("maxmemory lots\n", "at line 13 “maxmemory lots”: argument must be a memory value"),
            ("nosuch 1\n", "“nosuch 1”: Bad directive"),
            ("requirepass hush hush\n", "“requirepass <secret>”: wrong number of arguments"),
        ],
    )
    def test_a_bad_directive_is_told(
        self, redis: Callable[..., str], conf: str, words: str
    ) -> None:
        said = redis(conf)
        assert words in said
        assert "hush" not in said

    @pytest.mark.parametrize("rule", ["+nosuch", "#hush"], ids=["command", "hash"])
    def test_a_bad_user_is_told(self, redis: Callable[..., str], rule: str) -> None:
        said = redis(acl=f"{ACL}user x on {rule} >hush2\n")
        assert "users.acl:3: " in said
        assert "hush" not in said

    def test_users_that_the_server_can_not_read_are_told(
        self, redis: Callable[..., str], tmp_path: Path
    ) -> None:
        assert redis() == ""
        (tmp_path / "users.acl").chmod(0o600)
        said = trial(str(tmp_path / "redis.conf"))
        assert os.getuid() != 0 or "users.acl" in said

    def test_nothing_stays_behind(self, redis: Callable[..., str], tmp_path: Path) -> None:
        redis()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["redis.conf", "users.acl"]


def test_a_trial_keeps_the_numbers_of_lines() -> None:
    text = trial_configuration("port 1\n# c\nmaxmemory 1gb\nDIR /x\n", "/scratch")
    assert text.splitlines()[:4] == ["#", "# c", "maxmemory 1gb", "#"]
    assert "dir /scratch" in text.splitlines()


def test_what_redis_8_says_of_directives_that_it_does_not_know() -> None:
    said = """\
657:C 21 Nov 2026 01:06:43.915 * Reading config from stdin
657:C 21 Nov 2026 01:06:43.915 # WARNING Memory overcommit must be enabled!
657:M 21 Nov 2026 01:06:43.916 # Unresolved Configuration(s) Detected:
657:M 21 Nov 2026 01:06:43.916 # >>> 'nosuch 1'
657:M 21 Nov 2026 01:06:43.916 # >>> 'user x >hush'
657:M 21 Nov 2026 01:06:43.916 # Module Configuration detected without loadmodule directive: aborting
"""
    assert validate._essence(said) == "“nosuch 1”: Bad directive “user <secret>”: Bad directive"


def test_the_server_of_a_flavour_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis.conf").write_text("")
    asked: list[str] = []
    monkeypatch.setattr(validate, "program", lambda name: asked.append(name) or "/bin/false")
    check = Check((f"{tmp_path}/*",), redis=str(tmp_path / "redis.conf"), flavor="valkey")
    found = Checks([check], [str(tmp_path / "redis.conf")], [], "/units/", Asked())
    (refusal,) = found.refusals()
    assert refusal.startswith(f"valkey-server refuses {tmp_path}/redis.conf: ")
    assert asked == ["valkey-server"]


def test_what_a_drop_in_takes_back_is_not_executed(tmp_path: Path) -> None:
    names = {
        "/units/r@.service": "[Service]\nExecStartPre=-+/bin/true\nExecStart=/no/such a\n",
        "/units/r@x.service.d/10-fleet.conf": "[Service]\nExecStart=\nExecStart=/bin/sh b\n",
    }
    for taken_back, units in ((True, ["r@x.service"]), (False, [])):
        asked = Asked()
        texts = dict(names)
        if not taken_back:
            texts["/units/r@x.service.d/10-fleet.conf"] = "[Service]\nExecStart=/bin/sh b\n"
        found = Checks([], list(texts), ["r@x.service"], "/units/", asked)
        found._leave_out({path: candidate(text) for path, text in texts.items()})
        assert found.units == units


def test_a_check_of_redis_is_left_out_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validate, "program", lambda name: None)
    found = Checks([Check(("/r",), redis="/r")], ["/r"], [], "/units/", Asked())
    assert found.foretold({"/r": candidate("bad")}) == []
