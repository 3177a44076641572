"""The operator's command: each subcommand on the hosts where it has something to do, and what it refuses.

To simulate a broker that is down, the command runs in a network namespace that contains nothing. So nothing of the
fleet is disturbed.
"""

from __future__ import annotations

import json
import shlex
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from support.secrets import needles
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Done, Fleet

#: Seconds within which the command answers if something is down, plus some for a busy machine that starts three
#: Pythons.
BOUND = 20
#: A prefix for commands that need the default --timeout, or must print what a user would see.
AS_USER = "env -u CELERY_FLEET_TIMEOUT"


def call(fleet: Fleet, name: str, *argv: str, before: str = "", stdin: str = "") -> Done:
    """Run the command on a host; check that its output contains no secret."""
    done = fleet.execute(name, f"{before} celery-fleet {shlex.join(argv)}", stdin)
    found = done.output + done.errors
    leaked = [
        what for what, forms in needles(fleet).items() if any(text in found for text in forms)
    ]
    assert leaked == [], argv
    assert "Traceback" not in found, found
    return done


def ask(fleet: Fleet, name: str, *argv: str) -> Any:
    """Return the command's JSON answer; it must report that all is well."""
    done = call(fleet, name, "--format", "json", *argv)
    assert done.status == 0, done.output + done.errors
    return json.loads(done.output)


def nodes(fleet: Fleet) -> dict[str, list[str]]:
    """Return all workers with their queues, from the inventory."""
    return {
        f"{worker}@{name}": fleet.expected[name]["celery_worker_instances"][worker].get(
            "queues", [worker]
        )
        for name in fleet.hosts("celery_workers")
        for worker in fleet.expected[name]["celery_worker_host_instances"]
    }


@pytest.mark.hosts("fleet")
def test_status(fleet: Fleet, host_name: str) -> None:
    wanted = {
        unit
        for unit in fleet.expected[host_name]["units"]
        if not unit.endswith((".target", ".timer"))
    }

    def well() -> Any:
        done = call(fleet, host_name, "--format", "json", "status")
        return done.status == 0 and json.loads(done.output)

    found = wait_for("all is well", 10, well)
    assert {unit["name"] for unit in found["units"]} == wanted
    assert [unit["name"] for unit in found["units"] if not unit["ok"]] == []
    if found["note"] is None:
        assert {node: one["queues"] for node, one in found["workers"].items()} == nodes(fleet)
    assert (found["due"] is not None) is ("celery_beat" in fleet.expected[host_name]["group_names"])


def test_exec_runs_as_the_application_in_its_environment(fleet: Fleet) -> None:
    name = fleet.one("celery_producers")
    variables = fleet.expected[name]
    assert (
        call(fleet, name, "exec", "--", "id", "-un").output.strip() == variables["celery_app_user"]
    )
    # Print only names: the values must not appear in the test's output.
    script = "import os; print(*os.environ)"
    seen = set(call(fleet, name, "exec", "--", "python", "-c", script).output.split())
    own = {*variables["celery_app_env"], *variables["celery_app_secret_env"]}
    assert own | {"CELERY_APP", "CELERY_LOADER", "CREDENTIALS_DIRECTORY"} <= seen


def test_exec_sends_a_task_and_waits_for_its_result(fleet: Fleet, nothing_refused: None) -> None:
    variables = fleet.of("celery_producers")
    entry = next(iter(variables["celery_beat_schedule"].values()))
    script = (
        "from celery import current_app\nfrom celery.app.utils import find_app\nimport os\n"
        "app = find_app(os.environ['CELERY_APP'])\n"
        f"sent = app.send_task({entry['task']!r}, queue={entry['queue']!r})\n"
        "sent.get(timeout=20)\nprint(sent.state)"
    )
    done = call(fleet, fleet.one("celery_producers"), "exec", "--", "python", "-c", script)
    assert done.output.splitlines()[-1:] == ["SUCCESS"], done.errors


def test_exec_passes_status_input_signals_and_a_terminal_through(fleet: Fleet) -> None:
    name = fleet.one("celery_workers")
    done = call(fleet, name, "exec", "--", "sh", "-c", "cat; exit 7", stdin="one\n$HOME\n")
    assert (done.status, done.output) == (7, "one\n$HOME\n")
    for argv, status in (
        (("exec", "--", "sh", "-c", "kill -TERM $$"), 143),
        (("exec", "--timeout", "1", "--", "sleep", "60"), 124),
        (("exec", "--release", "none", "--", "true"), 125),
        (("exec", "--", "no-such-command"), 127),
    ):
        assert call(fleet, name, *argv).status == status, argv
    app = fleet.expected[name]["celery_app_name"]
    ready = "until pgrep --full '^[^ ]*sleep 61$'; do sleep 0.1; done"
    interrupt = f'({ready}; kill -INT $$) >/dev/null & exec "$@"'
    before = f"timeout 60 sh -c {shlex.quote(interrupt)} sh"
    assert call(fleet, name, "exec", "--", "sleep", "61", before=before).status == 130
    terminal = "script --quiet --return --command 'celery-fleet exec -- sh -c \"test -t 0 && tty\"' /dev/null"
    assert "/dev/pts/" in fleet.must(name, terminal)
    left = f"systemctl list-units --all --no-legend '{app}-exec-*'; ls /run/celery-fleet-exec"
    assert fleet.must(name, left).strip() == ""
    closed = (
        "script --quiet --command 'celery-fleet exec -- sleep 62' /dev/null </dev/null >/dev/null &"
        " until pgrep --full '^[^ ]*sleep 62$'; do sleep 0.1; done; kill -KILL $!"
    )
    fleet.must(name, f"timeout 60 sh -c {shlex.quote(closed)}")
    wait_for("the command ends with its terminal", 15, lambda: not fleet.must(name, left).strip())


def test_celerys_own_commands_as_the_operator(fleet: Fleet, nothing_refused: None) -> None:
    name = fleet.one("celery_workers")
    # By default Celery waits one second for answers.
    ping = ("celery", "inspect", "ping", "--timeout=20", f"--destination={','.join(nodes(fleet))}")
    found = call(fleet, name, "exec", "--as", "operator", "--", *ping)
    assert (found.status, found.output.count("pong")) == (0, len(nodes(fleet)))
    queue = fleet.expected[name]["celery_worker_host_instances"][0]
    done = call(
        fleet, name, "exec", "--as", "operator", "--", "celery", "purge", "--force", "-Q", queue
    )
    assert done.status == 0, done.errors


def test_inspect(fleet: Fleet, nothing_refused: None) -> None:
    name = fleet.one("celery_workers")
    tasks = {entry["task"] for entry in fleet.of("celery_beat")["celery_beat_schedule"].values()}
    registered = ask(fleet, name, "inspect", "registered")
    assert set(registered) == set(nodes(fleet))
    for found in registered.values():
        assert tasks <= set(found)
    first = next(iter(nodes(fleet)))
    for question in ("active", "conf"):
        assert list(ask(fleet, name, "inspect", question, "-d", first)) == [first]


def test_schedule(fleet: Fleet) -> None:
    name = fleet.one("celery_beat")
    wanted = fleet.of("celery_beat")["celery_beat_schedule"]
    found = ask(fleet, name, "schedule", "-n", "3")
    assert {entry["name"] for entry in found["entries"]} == set(wanted)
    for entry in found["entries"]:
        moments = [datetime.fromisoformat(due["local"]) for due in entry["due"]]
        assert moments == sorted(moments)
        assert [moment.timestamp() for moment in moments] == [
            datetime.fromisoformat(due["utc"]).timestamp() for due in entry["due"]
        ]
        assert (
            moments[0].utcoffset() == moments[0].astimezone(ZoneInfo(found["timezone"])).utcoffset()
        )
    elsewhere = next(host for host in fleet.hosts("celery_workers") if host != name)
    done = call(fleet, elsewhere, "schedule")
    assert (done.status, name in done.errors) == (3, True)


def test_redis(fleet: Fleet, nothing_refused: None) -> None:
    name = fleet.one("redis")
    for argv in (("redis", "--", "ping"), ("redis", "results", "--", "ping")):
        done = call(fleet, name, *argv)
        assert (done.status, done.output) == (0, "PONG\n"), done.errors
    assert "used_memory:" in call(fleet, name, "redis", "--", "info", "memory").output
    assert call(fleet, name, "redis", "--as", "admin", "--", "acl", "whoami").output == "admin\n"


def test_logs(fleet: Fleet) -> None:
    name = fleet.one("celery_workers")
    worker = fleet.expected[name]["celery_worker_host_instances"][0]
    done = call(fleet, name, "logs", "worker", worker, "-n", "3")
    assert (done.status, len(done.output.splitlines())) == (0, 3), done.errors


@pytest.mark.parametrize("argv", [("status",), ("inspect", "active")])
def test_the_command_says_in_time_that_the_broker_is_down(
    fleet: Fleet, argv: tuple[str, ...]
) -> None:
    began = time.monotonic()
    done = call(fleet, fleet.one("celery_workers"), *argv, before=f"{AS_USER} unshare --net")
    assert time.monotonic() - began < BOUND
    assert (done.status, "the broker can't be asked" in done.errors) == (3, True), done.errors


def test_a_user_without_root_is_told_what_to_type(fleet: Fleet) -> None:
    name = fleet.one("celery_workers")
    commands = (
        *(("inspect", "ping"), ("exec", "--", "true"), ("redis", "--", "ping")),
        *(("tasks",), ("run", "nothing"), ("logs",)),
    )
    for argv in commands:
        done = call(fleet, name, *argv, before=f"{AS_USER} runuser --user nobody --")
        assert done.status == 3
        assert f"sudo celery-fleet {shlex.join(argv)}" in done.errors
