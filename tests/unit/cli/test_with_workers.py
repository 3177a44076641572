"""The operator's commands against real Redis servers with the roles' users, and a real worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celery_fleet.cli import application, ask, stream, units
from celery_fleet.cli.commands import monitor
from celery_fleet.cli.main import cli
from celery_fleet.cli.options import Context
from celery_fleet.cli.watching import Summary
from celery_fleet.health import in_release
from tests.fleet import NODE, PASSWORDS, QUEUES, Fleet, client, running, wait_for
from tests.unit.cli import host

pytestmark = pytest.mark.slow

TASKS = [
    f"shop.{name}" for name in ("add", "fail", "lost", "note", "silent", "slow", "until", "when")
]

Call = Callable[..., Result]

# Replaces systemd-run: the same environment, from files of the test.
EXEC = """
import json, os, sys
words = sys.argv[sys.argv.index("--") + 1:]
os.environ.update(json.load(open(sys.argv[1])))
os.chdir(sys.argv[2])
os.execv(sys.executable, [sys.executable, *words[1:]])
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@cache
def checked(fleet: Fleet) -> dict[str, Any]:
    """Return what the build of a release records about the application."""
    done = subprocess.run(
        [sys.executable, "-m", "celery_fleet.release.check"],
        input=json.dumps({"app": "shop", "directory": str(fleet.directory)}),
        env={"PYTHONPATH": str(host.SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def place(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient: None) -> Path:
    """Return a host of that fleet."""
    document = host.document(tmp_path, workers={NODE: ["mail"]}, queues=QUEUES)
    directory = host.install(tmp_path)
    (directory / "cli.json").write_text(json.dumps(document))
    for component in ("operator", "producer"):
        text = json.dumps(fleet.settings(component))
        (directory / "credentials" / f"{component}.json").write_text(text)
    release = host.release(tmp_path)
    (release / "release.json").write_text(json.dumps({"directory": "source", **checked(fleet)}))

    def exec_command(where: object, component: str, *words: str) -> list[str]:
        environment = fleet.environment(component)
        path = tmp_path / "environment.json"
        path.write_text(json.dumps(environment))
        return [sys.executable, "-c", EXEC, str(path), str(fleet.directory), *words]

    monkeypatch.setattr(application, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(in_release, "as_user", lambda name: {})
    monkeypatch.setattr(ask, "exec_command", exec_command)
    monkeypatch.setattr(units, "show", lambda names: [])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


@pytest.fixture
def call(place: Path) -> Call:
    def called(*argv: str) -> Result:
        done = CliRunner().invoke(cli, argv, prog_name="celery-fleet")
        unexpected = done.exception
        assert unexpected is None or isinstance(unexpected, SystemExit), repr(unexpected)
        assert not any(word in done.output for word in PASSWORDS.values())
        return done

    return called


@pytest.fixture(autouse=True)
def nothing_refused(fleet: Fleet) -> Iterator[None]:
    yield
    assert fleet.refused() == []


def found(done: Result, code: int = 0) -> Any:
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_tasks_and_their_queues(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(*_: object, **__: object) -> Any:
        raise AssertionError("the application was imported")

    monkeypatch.setattr(ask, "in_release", imported)
    rows = found(call("tasks", "--format", "json"))
    assert [row["task"] for row in rows] == TASKS
    assert rows[0] == {"task": "shop.add", "queue": "mail", "name": "add", "consumed": True}
    assert (rows[2]["queue"], rows[2]["consumed"]) == ("nowhere", False)
    assert "nowhere !" in call("tasks").stdout


def test_a_task_is_run_and_its_result_printed(call: Call) -> None:
    done = call("run", "add", "--args", "[2, 3]")
    assert (done.exit_code, done.stdout) == (0, "5\n"), done.output
    assert "shop.add was sent to mail as " in done.stderr
    shown = found(call("run", "shop.add", "--kwargs", '{"a": "x", "b": "y"}', "--format", "json"))
    assert (shown["state"], shown["result"], shown["queue"]) == ("SUCCESS", "xy", "mail")


def test_a_task_that_fails(call: Call) -> None:
    done = call("run", "fail", "--args", '["no stock"]')
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Traceback (most recent call last)" in done.stderr  # the task's own, from the result
    assert done.stderr.endswith("celery-fleet: FAILURE: ValueError: no stock\n")


def test_a_task_is_sent_and_its_result_asked_for(call: Call) -> None:
    done = call("run", "slow", "--args", "[0.5]", "--async")
    assert done.exit_code == 0, done.output
    shown = found(call("result", done.stdout.strip(), "--wait", "20", "--format", "json"))
    assert (shown["state"], shown["ok"], shown["result"]) == ("SUCCESS", True, None)


def test_a_task_that_no_worker_runs(call: Call) -> None:
    to_nobody = ("run", "add", "--args", "[1, 2]", "--queue", "bulk", "--anyway")
    identity = call(*to_nobody, "--async").stdout.strip()
    assert found(call("result", identity, "--format", "json"))["state"] == "PENDING"
    assert call("result", identity, "--wait", "0.1").exit_code == 1
    done = call(*to_nobody, "--timeout", "3")
    assert done.exit_code == 1
    assert (
        "no result within 3 s (state PENDING); shop.add continues: celery-fleet result"
        in done.stderr
    )
    assert found(call("purge", "bulk", "--yes", "--format", "json"))["purged"] == 2


def test_a_task_without_a_result_is_not_waited_for(call: Call) -> None:
    done = call("run", "silent")
    assert done.exit_code == 0, done.output
    assert "shop.silent leaves no result" in done.stderr


def test_a_task_can_be_run_here(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        found(call("run", "add", "--args", "[2, 3]", "--here", "--format", "json"))["result"] == 5
    )
    done = call("run", "fail", "--args", '["no stock"]', "--here")
    assert (done.exit_code, "FAILURE: ValueError: no stock" in done.stderr) == (1, True)
    assert found(call("run", "silent", "--here", "--format", "json"))["ok"]
    assert "said by the task" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ("run", "lost"),
            "shop.lost goes to the queue nowhere, which no worker of the inventory consumes",
        ),
        (("run", "add", "--args", "[1]"), "shop.add does not take these arguments: "),
        (("run", "add", "--here"), "shop.add does not take these arguments: "),
        (("purge", "elsewhere", "--yes"), "queue elsewhere: the inventory has mail, bulk"),
    ],
)
def test_mistakes_that_are_only_noticed_on_the_way(
    fleet: Fleet, call: Call, argv: tuple[str, ...], words: str
) -> None:
    done = call(*argv)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    # Redis refuses to read a queue that no inventory names.
    fleet.refused()


def test_purge_takes_all_priorities(fleet: Fleet, call: Call) -> None:
    for _ in range(3):
        fleet.celery("call", "shop.add", "--args=[2, 3]", "--queue=bulk", user="producer")
    client(fleet.ports["broker"], "producer").lpush("bulk\x06\x166", "{}")
    refused = call("purge", "bulk")
    assert (refused.exit_code, "add --yes" in refused.stderr) == (2, True)
    assert found(call("purge", "bulk", "--yes", "--format", "json"))["purged"] == 4
    assert call("purge", "bulk", "--yes").stdout == "0 tasks deleted from bulk.\n"


def test_revoke(fleet: Fleet, call: Call) -> None:
    # No worker has it before it is revoked.
    words = ("call", "shop.add", "--args=[1, 1]", "--queue=bulk")
    identity = fleet.celery(*words, user="producer").strip()
    done = call("revoke", identity)
    assert done.exit_code == 0, done.output
    assert "flagged as revoked" in done.stdout
    fleet.told("control", "add_consumer", "bulk")
    try:
        # Celery 5.7 stores REVOKED with the command, before a worker has the task.
        broker = client(fleet.ports["broker"], "producer")
        wait_for(lambda: broker.llen("bulk") == 0, 30)
        done = call("result", identity, "--wait", "60")
    finally:
        fleet.told("control", "cancel_consumer", "bulk")
    assert (done.exit_code, done.stdout.startswith("REVOKED")) == (1, True), done.output


@pytest.mark.parametrize(
    "method", ["active", "scheduled", "reserved", "registered", "stats", "conf"]
)
def test_short_forms(call: Call, method: str) -> None:
    assert list(found(call(method, "--timeout", "30", "--format", "json"))) == [NODE]
    assert call(method, "--timeout", "30", "-d", NODE).exit_code == 0


def test_status_in_detail(fleet: Fleet, call: Call) -> None:
    call("run", "until", "--args", '["seen"]', "--async")
    try:
        wait_for(lambda: "shop.until" in call("active").stdout)
        done = call("status", "--detailed")
        report = found(call("status", "--detailed", "--format", "json"), 1)
    finally:
        (fleet.directory / "seen").touch()
    assert done.exit_code == 1, "bulk is not consumed"
    for text in ("Since the workers' start", "not sent", "shop.until"):
        assert text in done.stdout
    worker = report["workers"][NODE]
    assert worker["begun"] >= 1
    assert worker["tasks"][0]["name"] == "shop.until"


@pytest.fixture
def resumed(call: Call) -> Iterator[None]:
    """Resume whatever a test pauses."""
    yield
    for pause in found(call("status", "--json"), 1)["pauses"]:
        kind, _, name = pause["target"].partition(":")
        call("resume", f"--{kind}={name}" if name else "--all", "--why", pause["why"])


@pytest.mark.usefixtures("resumed")
def test_pause_and_resume(fleet: Fleet, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ana")
    running = call("run", "until", "--args", '["go"]', "--async").stdout.strip()
    wait_for(lambda: "shop.until" in call("active").stdout)

    done = call("pause", "--queue", "mail", "--why", "the provider is down")
    assert done.exit_code == 0, done.output
    # Tasks of other tests may run as well.
    assert re.match(
        r"Queue mail is paused\.\n\d tasks? of what is paused still runs?\.", done.stdout
    )
    assert "the provider is down" in done.stdout
    waiting = call("run", "slow", "--args", "[0]", "--async").stdout.strip()
    report = found(call("status", "--json"), 1)
    assert [one["by"] for one in report["pauses"]] == ["ana"]
    assert report["workers"][NODE]["state"] == "paused"
    assert report["queues"]["mail"]["waiting"] == 1
    # The worker is fine; the problem is another queue, which is not consumed.
    assert "mail" not in " ".join(report["problems"])

    # The same pause again waits for running tasks, and changes nothing in the first.
    threading.Timer(1, (fleet.directory / "go").touch).start()
    why = ("--why", "the provider is down")
    answer = found(call("pause", "--queue", "mail", *why, "--wait", "30", "--json"))
    assert answer["workers"][NODE] == {"paused": {"mail": 0}}
    assert answer["changed"] == []
    assert answer["pauses"] == report["pauses"]
    assert found(call("result", running, "--json"))["state"] == "SUCCESS"

    # Another pause covers the same queue, and each needs its own end.
    call("pause", "--worker", NODE.partition("@")[0])
    answer = found(call("resume", "--queue", "mail", "--json"))
    assert answer["workers"][NODE] == {"paused": {"mail": 0}}
    done = call("resume", "--worker", NODE.partition("@")[0])
    assert done.stdout == f"Worker {NODE.partition('@')[0]} is no longer paused.\n"
    assert found(call("result", waiting, "--wait", "20", "--json"))["ok"]


REBOOT = ("resume", "--queue", "mail", "--why", "reboot_hosts.yml")


@pytest.mark.usefixtures("resumed")
@pytest.mark.parametrize("other", ["bob", "ana"])
def test_no_one_ends_the_pause_of_another(
    call: Call, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Ana's playbook pauses a queue, and meanwhile Bob or, with the same login, another person."""
    monkeypatch.setenv("SUDO_USER", "ana")
    call("pause", "--queue", "mail", "--why", "reboot_hosts.yml")
    monkeypatch.setenv("SUDO_USER", other)
    done = call("pause", "--queue", "mail", "--why", "disk")
    assert (done.exit_code, done.stdout.partition("\n")[0]) == (0, "Queue mail is paused.")
    monkeypatch.setenv("SUDO_USER", "cara")
    done = call("resume", "--queue", "mail")
    assert done.exit_code == 1
    assert "queue mail is paused more than once; choose a pause with --why" in done.stderr

    monkeypatch.setenv("SUDO_USER", "ana")
    done = call(*REBOOT)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("A pause of queue mail has ended, another one remains.\n")
    left = found(call("status", "--json"), 1)["pauses"]
    assert [(one["by"], one["why"]) for one in left] == [(other, "disk")]
    done = call(*REBOOT)
    assert done.exit_code == 1
    assert "queue mail was not paused for this reason; paused is queue mail" in done.stderr
    monkeypatch.setenv("SUDO_USER", "cara")
    assert call("resume", "--queue", "mail").stdout == "Queue mail is no longer paused.\n"


@pytest.mark.usefixtures("resumed")
def test_of_several_pauses_the_persons_own_ends(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ana", "bob", "cara"):
        monkeypatch.setenv("SUDO_USER", name)
        call("pause", "--queue", "mail", "--why", "disk")
    monkeypatch.setenv("SUDO_USER", "bob")
    answer = found(call("resume", "--queue", "mail", "--json"))
    assert [one["by"] for one in answer["pauses"]] == ["ana", "cara"]
    assert answer["workers"][NODE]["paused"].keys() == {"mail"}


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("pause",), 2, "what to pause? --queue, --worker, --host or --all"),
        (("pause", "--queue", "male"), 2, "queue male: the inventory has"),
        (("pause", "--worker", "v"), 2, "worker v: the inventory has"),
        (("pause", "--host", "h"), 2, "host h: the inventory has"),
        (
            ("pause", "--queue", "bulk"),
            2,
            "queue bulk: only processes outside of the fleet consume",
        ),
        (("resume",), 2, "what to resume? --queue, --worker, --host or --all"),
        (("resume", "--queue", "mail"), 1, "queue mail was not paused; paused is nothing"),
        (("resume", "--host", "gone"), 1, "host gone was not paused; paused is nothing"),
    ],
)
def test_impossible_pauses_and_resumes_are_refused(
    call: Call, argv: tuple[str, ...], code: int, text: str
) -> None:
    done = call(*argv)
    assert done.exit_code == code, done.output
    assert text in done.output


PREFORK = "p@test"


@pytest.fixture
def prefork(fleet: Fleet, place: Path) -> Iterator[None]:
    """Another worker, with a pool that can be scaled, and a third one that is down."""
    path = place / "etc" / "shop" / "cli.json"
    document = json.loads(path.read_text())
    down = {"p@down": ["mail"]}
    path.write_text(
        json.dumps({**document, "workers": {PREFORK: ["mail"], NODE: ["mail"], **down}})
    )
    options = ("-n", PREFORK, "-Q", "mail", "-P", "prefork", "-c", "2", "-l", "WARNING")
    worker = fleet.start("celery", "-A", "shop", "worker", *options)
    try:
        fleet.wait_for_worker(PREFORK)
        yield
    finally:
        worker.terminate()
        worker.wait(60)


@pytest.mark.usefixtures("prefork")
def test_scale_and_reset(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ana")
    done = call("scale", "p", "4")
    assert done.exit_code == 1
    assert "p@down can't be scaled: it does not answer. Nothing was changed" in done.stderr

    done = call("scale", "p", "4", "--host", "test", "--why", "a backlog")
    assert done.exit_code == 0, done.output
    assert f"{PREFORK}: 2 → 4 processes.\nScaled\n" in done.stdout
    assert re.search(rf"{PREFORK} +4 +2 +\d+ s +ana +a backlog", done.stdout)
    report = found(call("status", "--json"), 1)
    assert report["workers"][PREFORK]["processes"] == 4
    (size,) = report["pool_sizes"]
    assert (size["node"], size["processes"], size["inventory"]) == (PREFORK, 4, "2")
    assert "a backlog" in call("status").stdout

    again = found(call("scale", "p", "4", "--host", "test", "--json"))
    assert again["workers"][PREFORK]["processes"] == 4
    done = call("scale", "p", "--reset")
    assert done.stdout == f"{PREFORK} is no longer scaled: the inventory says 2.\n"
    # The number of the inventory is no difference.
    assert found(call("scale", "p", "2", "--host", "test", "--json"))["sizes"] == []
    done = call("scale", "p", "--reset")
    assert done.exit_code == 1
    assert f"{PREFORK}, p@down was not scaled; scaled is nothing" in done.stderr


def test_a_worker_with_another_pool_is_not_scaled(call: Call) -> None:
    done = call("scale", NODE.partition("@")[0], "4")
    assert done.exit_code == 1
    assert f"{NODE} can't be scaled: its pool is threads, and only prefork can" in done.stderr
    assert "Nothing was changed: set concurrency in the inventory, and run site.yml" in done.stderr


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("scale", "w"), 2, "how many processes? Give their number, or --reset"),
        (("scale", "w", "4", "--reset"), 2, "how many processes? Give their number, or --reset"),
        (("scale", "w", "0"), 2, "1 to 1000; to have it fetch nothing, use `celery-fleet pause"),
        (("scale", "w", "1001"), 2, "1001 processes: a worker can have 1 to 1000"),
        (("scale", "w", "many"), 2, "'many' is not a valid integer"),
        (("scale", "v", "4"), 2, "worker v: the inventory has"),
        (("scale", "w", "4", "--host", "h"), 2, "worker w runs on"),
        (("scale", "gone", "--reset"), 1, "was not scaled; scaled is nothing"),
    ],
)
def test_what_can_not_be_scaled(call: Call, argv: tuple[str, ...], code: int, text: str) -> None:
    worker = NODE.partition("@")[0]
    done = call(*(worker if word == "w" else word for word in argv))
    assert done.exit_code == code, done.output
    assert text in done.stderr


Watching = Callable[[Callable[[Summary], object]], None]


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    """Return a function that has another one called after each sample that a monitor shows.

    If that one returns true, it was enough, and the monitor ends as by Ctrl-C. There is no fixed time, because how
    long a sample takes depends on the machine.
    """

    view = monitor.view
    # On a busy machine its last look takes longer.
    monkeypatch.setattr(stream, "GRACE", 60.0)

    def called(react: Callable[[Summary], object]) -> None:
        ended: list[bool] = []

        @contextmanager
        def watched(context: Context, duration: float) -> Iterator[Callable[[Summary], None]]:
            with view(context, duration) as show:

                def shown(summary: Summary) -> None:
                    show(summary)
                    if react(summary) and not ended:
                        ended.append(True)
                        raise KeyboardInterrupt

                yield shown

        monkeypatch.setattr(monitor, "view", watched)

    return called


WORK = """
from shop import add, fail, slow
add.delay(1, 2), add.delay(1, 2), slow.delay(3), fail.delay("no stock")
"""


@pytest.fixture
def monitored(call: Call, fleet: Fleet, watching: Watching) -> Callable[..., list[dict[str, Any]]]:
    """Return the lines of a monitor until it has counted four tasks, one of which fails; nothing else happens."""

    def lines(*argv: str) -> list[dict[str, Any]]:
        # Otherwise tasks that an earlier test has left running would be counted.
        wait_for(lambda: found(call("active", "--format", "json")) == {NODE: []}, 30)
        sending: list[subprocess.Popen[bytes]] = []

        def react(summary: Summary) -> bool:
            # Its queue for events is bound later than it reports that it is ready.
            if not sending and fleet.listeners():
                sending.append(
                    subprocess.Popen(
                        [sys.executable, "-c", WORK],
                        cwd=fleet.directory,
                        env=fleet.environment("producer"),
                    )
                )
            counts = summary.counts
            ended = counts["succeeded"] + counts["failed"]
            return (counts["started"] if summary.samples[-1].by_totals else ended) >= 4

        watching(react)
        done = call("--format", "json", "monitor", "--duration", "300", "--interval", "1.5", *argv)
        assert sending.pop().wait(60) == 0
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    return lines


def test_monitor_by_totals_and_by_events(
    fleet: Fleet, monitored: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    file = tmp_path / "monitoring.json"
    *samples, last = monitored("--output-file", str(file))
    summary = last["summary"]
    assert len(samples) >= 2
    assert (summary["by_totals"], summary["online"]) == ([NODE], [NODE])
    assert (summary["counts"]["started"], summary["counts"]["succeeded"]) == (4, 0)
    assert summary["queues"] == {"mail": 0, "bulk": 0}
    written = json.loads(file.read_text())
    assert (written["summary"], len(written["samples"])) == (summary, len(samples))
    assert [path.name for path in tmp_path.glob("*monitoring*")] == ["monitoring.json"]

    fleet.told("control", "enable_events")
    *_, last = monitored("--workers", NODE.partition("@")[0])
    summary = last["summary"]
    fleet.told("control", "disable_events")
    assert summary["by_totals"] == []
    assert summary["counts"] == {
        "received": 4,
        "started": 4,
        "succeeded": 3,
        "failed": 1,
        "retried": 0,
    }
    assert 1 <= summary["mean_runtime"] < 3
    (failure,) = summary["failures"]
    assert (failure["task"], failure["worker"]) == ("shop.fail", NODE)
    assert "no stock" in failure["error"]
    assert fleet.listeners() == set(), "left on the broker"


def test_the_monitors_output_for_people(call: Call) -> None:
    done = call("monitor", "--duration", "2", "--interval", "1")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "received 0.0/s" in lines[0]
    assert "1/1 workers; mail 0, bulk 0" in lines[0]
    assert "Workers: 1 of 1 online" in done.stdout


def test_monitor_survives_a_broker_that_hangs(fleet: Fleet, call: Call, watching: Watching) -> None:
    broker = fleet.processes["broker"]

    def react(summary: Summary) -> bool:
        if len(summary.samples) == 1:
            broker.send_signal(signal.SIGSTOP)
        elif summary.trouble:
            broker.send_signal(signal.SIGCONT)
        return not summary.trouble and any(sample.trouble for sample in summary.samples)

    watching(react)
    try:
        done = call("--format", "json", "monitor", "--duration", "300", "--interval", "1")
    finally:
        broker.send_signal(signal.SIGCONT)
    assert done.exit_code == 0, done.output
    *samples, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(sample["trouble"] for sample in samples)
    assert last["summary"]["trouble"] is None


def test_monitor_gives_up_on_a_hanging_broker(
    fleet: Fleet, call: Call, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_FLEET_TIMEOUT", "30")
    broker = fleet.processes["broker"]
    watching(lambda summary: broker.send_signal(signal.SIGSTOP))
    began = time.monotonic()
    try:
        done = call("monitor", "--duration", "300", "--interval", "1")
    finally:
        broker.send_signal(signal.SIGCONT)
    assert done.exit_code == 3
    assert time.monotonic() - began < 120
    assert "the broker does not answer" in done.stderr
    assert "Workers: 1 of 1 online" in done.stdout


COMMANDS = (
    ("run", "add", "--args", "[1, 2]"),
    ("run", "add", "--args", "[1, 2]", "--async"),
    ("monitor",),
    ("active",),
    ("purge", "mail", "--yes"),
    ("revoke", "6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6"),
)


@pytest.mark.parametrize("argv", COMMANDS)
def test_a_broker_that_hangs(
    fleet: Fleet, call: Call, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELERY_FLEET_TIMEOUT")  # the test is about the usual limit
    broker = fleet.processes["broker"]
    broker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        done = call(*argv)
    finally:
        broker.send_signal(signal.SIGCONT)
    assert done.exit_code == 3, done.output
    # `run` waits for a minute, but not for a broker.
    assert time.monotonic() - began < 30
    assert done.stderr.count("\n") == 1
    assert re.search("answer|Timeout|no data about the workers", done.stderr)


def test_a_result_store_that_hangs(fleet: Fleet, call: Call) -> None:
    results = fleet.processes["results"]
    results.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        done = call("result", "6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6")
        sent = call("run", "add", "--args", "[1, 2]")
    finally:
        results.send_signal(signal.SIGCONT)
    assert (done.exit_code, sent.exit_code) == (3, 3)
    assert "the result store can't be asked" in done.stderr
    assert "the result store can't be asked" in sent.stderr
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_monitor_with_its_sums(place: Path, fleet: Fleet, number: int) -> None:
    before = fleet.listeners()
    code = (
        "from pathlib import Path; from celery_fleet.cli import application, main\n"
        "from celery_fleet.health import in_release\n"
        f"application.CONFIGURATION = Path({str(place / 'etc')!r})\n"
        "in_release.as_user = lambda name: {}\n"
        "main.run()"
    )
    # If the tests run in the background, SIGINT is ignored, and Python leaves it so.
    python = ["env", "--default-signal=INT", sys.executable]
    process = subprocess.Popen(
        [*python, "-c", code, "--format", "json", "monitor", "--interval", "1"],
        env={
            "PYTHONPATH": str(host.SOURCE),
            "PATH": os.environ["PATH"],
            "CELERY_FLEET_TIMEOUT": "120",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["trouble"] is None
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "summary" in json.loads(out.splitlines()[-1])
    assert fleet.listeners() <= before, "left on the broker"
