"""Release commands as site.yml runs them: the role's tasks in a real ansible-playbook on this machine.

All its hosts are this one machine, so they share what real hosts have separately.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.collection import replaced
from tests.contract.test_repository import ROOT
from tests.unit.command_host import Host

pytestmark = pytest.mark.slow

PLAY: list[dict[str, Any]] = [
    {
        "hosts": "celery_workers",
        "gather_facts": False,
        "any_errors_fatal": True,
        "roles": ["celery_fleet.core.celery_app"],
        "tasks": [
            {
                "name": "Look",
                "ansible.builtin.import_role": {
                    "name": "celery_fleet.core.celery_release",
                    "tasks_from": "plan",
                    "rolespec_validate": False,
                },
            },
            {
                "name": "Run them",
                "ansible.builtin.import_role": {
                    "name": "celery_fleet.core.celery_release",
                    "tasks_from": "commands",
                    "rolespec_validate": False,
                },
                "when": "not ansible_check_mode",
            },
            {
                "name": "Switch",
                "ansible.builtin.debug": {
                    "msg": "switched: {{ __celery_release_due | map(attribute='text') | join }}"
                },
            },
        ],
    }
]


class Fleet:
    """Two hosts of workers and one of Redis."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = Host(root / "host")
        self.order = root / "order"
        # There is no variable for the directory of marks.
        delivered = "plugins/plugin_utils/run/release_commands.py"
        text = (ROOT / delivered).read_text()
        assert text.count('"/var/lib/celery-fleet/commands"') == 1
        logic = root / "commands.py"
        logic.write_text(text.replace("/var/lib/celery-fleet/commands", str(root / "marks")))
        self.collections = replaced(root, parts={delivered: logic})
        (root / "runtime/celery_fleet").mkdir(parents=True)
        (root / "runtime/celery_fleet/system").symlink_to(self.host.runtime)
        source = root / "source"
        source.mkdir()
        (source / "app.py").touch()
        (source / "requirements.txt").touch()
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        names = ("worker1", "worker2", "redis1")
        self.variables: dict[str, Any] = {
            "celery_app_name": "shop",
            "celery_app_module": "app",
            "celery_app_runtime": str(root / "runtime"),
            "celery_app_source": {"path": str(source)},
            "celery_app_secret_env": {"PASSWORD": "quite-secret"},
            "celery_worker_instances": {"all": {}},
        }
        groups = {
            "fleet": {"hosts": dict.fromkeys(names, local)},
            "redis": {"hosts": {"redis1": {}}},
            "celery_workers": {"hosts": {"worker1": {}, "worker2": {}}},
        }
        (root / "hosts.yml").write_text(yaml.safe_dump(groups))
        (root / "play.yml").write_text(yaml.safe_dump(PLAY))

    def command(self, name: str, rest: str = "", **more: Any) -> dict[Any, Any]:
        script = f"echo {name} >> {self.order}; {rest}"
        return {"name": name, "argv": ["/bin/sh", "-c", script], "timeout": 300, **more}

    def start(self, commands: list[dict[Any, Any]] | None, *more: str) -> subprocess.Popen[str]:
        given = self.root / "given.json"
        own = {} if commands is None else {"celery_release_commands": commands}
        given.write_text(yaml.safe_dump({**self.variables, **own}))
        return subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                f"--inventory={self.root}/hosts.yml",
                f"--extra-vars=@{given}",
                *more,
                str(self.root / "play.yml"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{self.host.bin}:{os.environ['PATH']}",
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": self.collections,
                "ANSIBLE_NOCOLOR": "1",
                # Ansible leaves it to Python when a line gets into a pipe.
                "PYTHONUNBUFFERED": "1",
                "XDG_CACHE_HOME": str(self.root / "cache"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, commands: list[dict[Any, Any]] | None, *more: str) -> tuple[int, str]:
        process = self.start(commands, *more)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    @property
    def done(self) -> list[str]:
        return self.order.read_text().split() if self.order.exists() else []


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.host.end()


def test_commands_run_once_and_in_their_order(fleet: Fleet) -> None:
    listed = [
        fleet.command("migrate", "sleep 1"),
        fleet.command("static") | {"hosts": "all"},
        fleet.command("demo", when="once", umask="0027"),
    ]
    # Only one host runs it, because the two share files here, unlike real hosts.
    status, output = fleet.run(listed, "--limit=worker1")
    assert status == 0, output
    assert fleet.done == ["migrate", "static", "demo"]
    *_, demo = (json.loads(line) for line in fleet.host.seen.read_text().splitlines())
    assert demo["--umask"] == "0027"
    assert "worker1: migrate is done, in " in output
    assert "switched: migrate (once per release)" in output
    # A second run has nothing to do.
    status, output = fleet.run(listed)
    assert status == 0, output
    assert fleet.done == ["migrate", "static", "demo"]
    assert "(once" not in output
    # Another release runs commands that are due for each release, but not those that run once.
    (fleet.root / "source/app.py").write_text("x = 1\n")
    assert fleet.run(listed, "--limit=worker1")[0] == 0
    assert fleet.done[3:] == ["migrate", "static"]
    # Back to the previous release, whose commands were done.
    (fleet.root / "source/app.py").write_text("")
    assert fleet.run(listed)[0] == 0
    assert len(fleet.done) == 5


def test_commands_of_a_group_that_the_first_host_is_not_in(fleet: Fleet) -> None:
    """As in group_vars/celery_workers.yml: the plan's first host is one of Redis."""
    commands = [fleet.command("migrate", "sleep 1")]
    hosts = yaml.safe_load((fleet.root / "hosts.yml").read_text())
    hosts["celery_workers"]["vars"] = {"celery_release_commands": commands}
    hosts["fleet"]["hosts"] = {
        name: hosts["fleet"]["hosts"][name] for name in ("redis1", "worker1", "worker2")
    }
    (fleet.root / "hosts.yml").write_text(yaml.safe_dump(hosts))
    look, *rest = PLAY[0]["tasks"]
    play = {**PLAY[0], "tasks": rest}
    before = {**PLAY[0], "hosts": "fleet", "tasks": [look]}
    (fleet.root / "play.yml").write_text(yaml.safe_dump([before, play]))
    status, output = fleet.run(None)
    assert status == 0, output
    # Its mark is found again, so it is not planned.
    status, output = fleet.run(None)
    assert status == 0, output
    assert "(once" not in output
    assert fleet.done == ["migrate"]


def test_pending_migrations_are_listed_before_the_commands(fleet: Fleet) -> None:
    listed = [fleet.command("migrate", f"[ -e {fleet.root}/ready ]")]
    fleet.host.pending(["shop.0001_initial", "shop.0002_price"])
    status, output = fleet.run(listed, "--limit=worker1")
    assert status != 0
    words = "worker1: 2 migrations are pending for release "
    assert output.index(words) < output.index("shop.0002_price") < output.index("exit status 1")
    (fleet.root / "ready").touch()
    fleet.host.pending([])
    status, output = fleet.run(listed, "--limit=worker1")
    assert status == 0, output
    assert "worker1: no migrations are pending for release " in output
    # Nothing is left to do, so nothing is asked.
    fleet.host.migrations.unlink()
    status, output = fleet.run(listed)
    assert status == 0, output
    assert "migrations" not in output.replace("List the pending migrations", "")


@pytest.mark.long
def test_only_a_deploy_ends_if_pending_migrations_can_not_be_listed(fleet: Fleet) -> None:
    fleet.host.pending(None, "OperationalError: no login with quite-secret")
    deploy = "--extra-vars={__celery_release_deploys: true}"
    status, output = fleet.run([fleet.command("migrate")], "--limit=worker1", deploy)
    assert status != 0
    told = " ".join(output.split())
    assert "listed: OperationalError: no login with ***. None of its commands has run" in told
    assert "run the same playbook again" in told
    assert fleet.done == []
    status, output = fleet.run([fleet.command("migrate")], "--limit=worker1")
    assert status == 0, output
    assert "no login with ***. Its commands run all the same." in " ".join(output.split())
    assert "quite-secret" not in output
    assert fleet.done == ["migrate"]
    # A deploy asks even if none of its commands is left to run.
    fleet.host.pending(["shop.0003_total"])
    status, output = fleet.run([fleet.command("migrate")], deploy)
    assert status == 0, output
    assert "worker1: 1 migration is pending for release " in output
    assert fleet.done == ["migrate"]


def test_a_dry_run_runs_no_command(fleet: Fleet) -> None:
    status, output = fleet.run([fleet.command("migrate")], "--check")
    assert status == 0, output
    assert "switched: migrate (once per release)" in output
    assert fleet.done == []
    assert not (fleet.root / "marks").exists()


def test_a_failure_stops_the_run_and_the_next_run_retries_it(fleet: Fleet) -> None:
    last = fleet.command("last")
    bad = [
        fleet.command("first"),
        fleet.command("bad", "echo the password is quite-secret; exit 3"),
        last,
    ]
    status, output = fleet.run(bad)
    assert status != 0
    assert fleet.done == ["first", "bad"]
    for words in (
        "worker1: bad of release",
        "ended with exit status 3",
        "the password is ***",
        "it continues with bad",
    ):
        assert words in output, output
    assert "quite-secret" not in output
    assert "switched" not in output
    # The log, which only root can read, has everything.
    log = next((fleet.host.root / "var/log/celery-fleet/shop/commands").glob("*-bad-*.log"))
    assert "quite-secret" in log.read_text()
    status, output = fleet.run([bad[0], fleet.command("bad"), last])
    assert status == 0, output
    assert fleet.done == ["first", "bad", "bad", "last"]


@pytest.mark.long
def test_output_of_a_command_is_always_shown_without_secrets(fleet: Fleet) -> None:
    fleet.variables["celery_app_env"] = {"MODE": "true", "WHERE": "here"}
    fleet.variables["celery_app_env_urls"] = {
        "DATABASE_URL": {"scheme": "x", "host": "h", "user": "u", "password": "p@ss/word"}
    }
    words = "echo quite-secret and p@ss/word, MODE true here"
    status, output = fleet.run([fleet.command("well", words)], "-v")
    assert status == 0, output
    assert "*** and ***, MODE true here" in output
    status, output = fleet.run([fleet.command("badly", f"{words}; exit 3")], "-vvv")
    assert status != 0
    assert "*** and ***, MODE true here" in output
    assert "quite-secret" not in output
    assert "p@ss" not in output


@pytest.mark.long
def test_a_command_that_does_not_exist_or_hangs(fleet: Fleet) -> None:
    status, output = fleet.run([{"name": "none", "argv": ["/no/such/program"]}])
    assert status != 0
    assert "none of release" in output
    assert "is a program that does not exist" in output
    assert "run the same playbook again" in " ".join(output.split())
    status, output = fleet.run([fleet.command("hangs", "sleep 60") | {"timeout": 1}])
    assert status != 0
    assert "took longer than its timeout of 1 s" in output
    assert "run the same playbook again" in " ".join(output.split())


def test_a_command_of_a_killed_run_is_awaited(fleet: Fleet) -> None:
    listed = [fleet.command("migrate", f"while [ ! -e {fleet.root}/go ]; do sleep 0.1; done")]
    killed = fleet.start(listed)
    while not fleet.done:
        time.sleep(0.1)
        assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = fleet.start(listed)
    assert again.stdout is not None
    words = "migrate was started by an earlier run and still runs: waiting for its end"
    assert any(words in line for line in again.stdout)
    (fleet.root / "go").touch()
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert fleet.done == ["migrate"]


@pytest.mark.long
def test_concurrent_runs_run_a_command_once(fleet: Fleet) -> None:
    listed = [fleet.command("migrate", "sleep 2")]
    both = [fleet.start(listed, f"--limit={host}") for host in ("worker1", "worker2")]
    ends = []
    for process in both:
        output, _ = process.communicate(timeout=300)
        ends.append(process.returncode)
        # Normally the lease prevents two runs at once. Without it, the later run is told on which host the command was
        # started.
        assert process.returncode == 0 or "migrate was started on worker" in output
    assert 0 in ends
    assert fleet.done == ["migrate"]


@pytest.mark.long
def test_a_mark_of_a_host_outside_the_run_is_an_error(fleet: Fleet) -> None:
    listed = [fleet.command("migrate")]
    assert fleet.run(listed)[0] == 0
    mark = next((fleet.root / "marks").glob("shop/fleet/*/migrate.json"))
    mark.write_text(json.dumps({"state": "started", "host": "gone1"}))
    status, output = fleet.run(listed)
    assert status != 0
    assert "migrate was started on gone1" in output
    assert str(mark) in output
    assert fleet.done == ["migrate"]
