"""The daemons' own checks of written files."""

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
    DaemonChecks,
    trial,
    trial_configuration,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import Check
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import Completed

from tests.programs import required

# --- which checks run, and their messages -----------------------------------------------------------------


class Asked:
    """A runner that records commands and gives the same answer to all."""

    def __init__(self, answer: Completed | None = None) -> None:
        self.commands: list[Sequence[str]] = []
        self.answer = answer or Completed(0, "")

    def __call__(self, command: Sequence[str]) -> Completed:
        self.commands.append(command)
        return self.answer


NGINX = Check(("/n/*.conf",), command=("sh", "-t"))


def checks(
    changed: Sequence[str], runner: systemd.Runner, units: Sequence[str] = ()
) -> DaemonChecks:
    return DaemonChecks([NGINX], changed, units, "/units/", runner)


def test_a_check_runs_for_its_files_and_names_them() -> None:
    asked = Asked(Completed(1, "unknown directive\n"))
    assert checks(["/n/b.conf", "/n/a.conf", "/m/c.conf"], asked).refusals() == [
        "sh -t refuses /n/a.conf, /n/b.conf: unknown directive"
    ]
    assert checks(["/m/c.conf"], asked).refusals() == []
    assert len(asked.commands) == 1


def test_a_refusal_ends_with_what_to_do() -> None:
    check = Check(("/n/a.conf",), command=("sh", "-t"), hint="Correct shop_snippet.")
    made = DaemonChecks([check], ["/n/a.conf"], [], "/units/", Asked(Completed(1, "unknown")))
    assert made.refusals() == ["sh -t refuses /n/a.conf: unknown\nCorrect shop_snippet."]


def test_systemd_is_asked_for_units_whose_files_changed() -> None:
    asked = Asked()
    changed = ["w@.service", "x.service.d/1.conf", "y@.service", "z@a.service.d/1.conf", "no/unit"]
    units = ["w@a.service", "w@b.service", "x.service", "z@a.service", "z@b.service"]
    checks([f"/units/{name}" for name in changed], asked, units).refusals()
    (command,) = asked.commands
    assert command[:2] == ["systemd-analyze", "verify"]
    expected = ["w@a.service", "w@b.service", "x.service", "y@.service", "z@a.service"]
    assert sorted(command[4:]) == [f"/units/{name}" for name in expected]


def test_only_messages_about_our_files_are_refusals() -> None:
    words = "/units/a.service.d/50-mine.conf:2: Unknown key 'Users', ignoring.\nother.service: x"
    asked = Asked(Completed(1, words))
    assert checks(["/units/a.service"], asked).refusals() == []
    asked = Asked(Completed(1, f"{words}\n/units/a.service:3: Unknown key 'Ours'\na.service: y\n"))
    assert checks(["/units/a.service"], asked).refusals() == [
        "systemd refuses a unit file: /units/a.service:3: Unknown key 'Ours'; a.service: y"
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [("Nice=5", ""), ("NoSuch=1", "Unknown key"), ("ExecStartPre=/no/such", "not executable")],
)
def test_a_unit_with_a_mistake_is_refused(tmp_path: Path, line: str, words: str) -> None:
    required("systemd-analyze")
    path, mine = tmp_path / "a@.service", tmp_path / "a@x.service.d/50-mine.conf"
    mine.parent.mkdir()
    mine.write_text("[Service]\nUsersOwn=1\n")
    path.write_text(f"[Service]\nExecStart=/bin/sh\n{line}\n")
    found = DaemonChecks([], [str(path)], ["a@x.service"], f"{tmp_path}/", systemd.run).refusals()
    assert words in "".join(found)
    assert bool(found) is bool(words)


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
    """Return a function that tries a configuration and its users, and returns the server's complaint."""

    required("redis-server")

    def run(conf: str = "", acl: str = ACL) -> str:
        users, path = tmp_path / "users.acl", tmp_path / "redis.conf"
        # The server reads the file of users as its own user.
        path_down = [tmp_path, *tmp_path.parents]
        for directory in path_down[: path_down.index(Path(tempfile.gettempdir()))]:
            directory.chmod(0o755)
        users.write_text(acl)
        path.write_text(CONF.format(acl=users) + conf)
        return trial(str(path))

    return run


class TestTrial:
    def test_a_valid_configuration_needs_neither_key_nor_data(
        self, redis: Callable[..., str]
    ) -> None:
        assert redis() == ""

    @pytest.mark.parametrize(
        ("conf", "words"),
        [
            ("maxmemory lots\n", "at line 13 “maxmemory lots”: argument must be a memory value"),
            ("nosuch 1\n", "“nosuch 1”: Bad directive"),
            ("requirepass hush hush\n", "“requirepass <secret>”: wrong number of arguments"),
        ],
    )
    def test_a_bad_directive_is_reported(
        self, redis: Callable[..., str], conf: str, words: str
    ) -> None:
        said = redis(conf)
        assert words in said
        assert "hush" not in said

    @pytest.mark.parametrize("rule", ["+nosuch", "#hush"], ids=["command", "hash"])
    def test_a_bad_user_is_reported(self, redis: Callable[..., str], rule: str) -> None:
        said = redis(acl=f"{ACL}user x on {rule} >hush2\n")
        assert "users.acl:3: " in said
        assert "hush" not in said

    def test_users_that_the_server_can_not_read_are_reported(
        self, redis: Callable[..., str], tmp_path: Path
    ) -> None:
        assert redis() == ""
        (tmp_path / "users.acl").chmod(0o600)
        said = trial(str(tmp_path / "redis.conf"))
        assert os.getuid() != 0 or "users.acl" in said

    def test_a_trial_leaves_nothing_behind(self, redis: Callable[..., str], tmp_path: Path) -> None:
        redis()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["redis.conf", "users.acl"]


def test_a_trial_keeps_line_numbers() -> None:
    text = trial_configuration("port 1\n# c\nmaxmemory 1gb\nDIR /x\n", "/scratch")
    assert text.splitlines()[:4] == ["#", "# c", "maxmemory 1gb", "#"]
    assert "dir /scratch" in text.splitlines()


def test_redis_8s_message_about_unknown_directives_is_read() -> None:
    said = """\
657:C 21 Nov 2026 01:06:43.915 * Reading config from stdin
657:C 21 Nov 2026 01:06:43.915 # WARNING Memory overcommit must be enabled!
657:M 21 Nov 2026 01:06:43.916 # Unresolved Configuration(s) Detected:
657:M 21 Nov 2026 01:06:43.916 # >>> 'nosuch 1'
657:M 21 Nov 2026 01:06:43.916 # >>> 'user x >hush'
657:M 21 Nov 2026 01:06:43.916 # Module Configuration detected without loadmodule directive: aborting
"""
    assert validate._essence(said) == "“nosuch 1”: Bad directive “user <secret>”: Bad directive"


def test_the_flavours_own_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis.conf").write_text("")
    asked: list[str] = []
    monkeypatch.setattr(
        validate.shutil, "which", lambda name, path: asked.append(name) or "/bin/false"
    )
    check = Check((f"{tmp_path}/*",), redis=str(tmp_path / "redis.conf"), flavor="valkey")
    found = DaemonChecks([check], [str(tmp_path / "redis.conf")], [], "/units/", Asked())
    (refusal,) = found.refusals()
    assert refusal.startswith(f"valkey-server refuses {tmp_path}/redis.conf: ")
    assert asked == ["valkey-server"]
