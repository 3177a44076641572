"""Commands that send, look and delete: what is refused without asking a worker, and what is shown."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import suitability
from celery import Celery
from click.testing import CliRunner

from celery_fleet.cli import ask, stream, tasks, watching
from celery_fleet.cli import confirm as confirming
from celery_fleet.cli.commands import monitor, purge
from celery_fleet.cli.errors import CommandError
from celery_fleet.cli.main import cli
from celery_fleet.cli.options import Context
from celery_fleet.ops import monitoring, questions
from celery_fleet.ops import tasks as calling
from tests.unit.cli import host
from tests.unit.cli.conftest import Call

ID = "6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6"
TASKS = [
    "core.tasks.cleanup",
    "core.tasks.system_health_check",
    "mail.tasks.cleanup",
    "tasks.cleanup",
]


@pytest.fixture
def released(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the host with a release that registers some tasks."""
    path = host.release(place) / "release.json"
    path.write_text(json.dumps({"directory": "source", "tasks": TASKS}))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return place


# --- names ---


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("system_health_check", TASKS[1]),
        ("tasks.system_health_check", TASKS[1]),
        ("core.tasks.cleanup", TASKS[0]),
        ("tasks.cleanup", "tasks.cleanup"),  # the end of two names, and the full name of a task
        ("mail.tasks.cleanup", TASKS[2]),
    ],
)
def test_a_task_is_found_by_its_name_or_the_end_of_it(given: str, meant: str) -> None:
    assert tasks.resolve(TASKS, given) == meant


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "cleanup",
            "may be core.tasks.cleanup, mail.tasks.cleanup, tasks.cleanup; use one of these",
        ),
        ("sytem_health_check", "did you mean core.tasks.system_health_check?"),
        ("core.tasks.cleanups", "did you mean core.tasks.cleanup"),
        ("health_check", "did you mean core.tasks.system_health_check?"),
        ("zzz", "see `celery-fleet tasks`"),
        ("", "see `celery-fleet tasks`"),
    ],
)
def test_an_unknown_or_ambiguous_name_is_refused(given: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        tasks.resolve(TASKS, given)
    assert caught.value.exit_code == 2
    assert words in caught.value.message


def test_a_short_name_resolves_to_its_task() -> None:
    short = tasks.short_names(TASKS)
    assert short[TASKS[1]] == "system_health_check"
    assert {name: tasks.resolve(TASKS, one) for name, one in short.items()} == {
        name: name for name in TASKS
    }


# --- refused at once ---


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("run", "nothing"), "task nothing: the release has no task of this name"),
        (("run", "cleanup"), "may be core.tasks.cleanup, mail.tasks.cleanup"),
        (("run", TASKS[1], "--args", "[1,"), "--args: not JSON at line 1, column 4"),
        (("run", TASKS[1], "--args", "[\n1 2]"), "--args: not JSON at line 2, column 3"),
        (("run", TASKS[1], "--args", "{}"), "--args: an object, must be a list"),
        (("run", TASKS[1], "--args", "[NaN]"), "NaN does not exist in JSON"),
        (("run", TASKS[1], "--args", "[1e999]"), "1e999 is too large a number"),
        (("run", TASKS[1], "--args", "[" * 100_000), "--args: not JSON"),
        (("run", TASKS[1], "--kwargs", "[1]"), "--kwargs: a list, must be an object"),
        (("run", TASKS[1], "--kwargs", "null"), "--kwargs: null, must be an object"),
        (
            ("run", TASKS[1], "--queue", "fast"),
            "no worker of the inventory consumes it; consumed are bulk, mail, slow",
        ),
        (("run", TASKS[1], "--here", "--async"), "--here sends nothing"),
        (("run", TASKS[1], "--timeout", "0"), "--timeout"),
        (("monitor", "--duration", "0"), "--duration"),
        (("monitor", "--duration", "-5"), "--duration"),
        (
            ("monitor", "--duration", "5", "--interval", "6"),
            "--interval 6: is longer than --duration 5",
        ),
        (("monitor", "--interval", "0"), "--interval"),
        (("monitor", "--duration", "nan"), "nan is not a number of seconds"),
        (("result", ID, "--wait", "soon"), "--wait"),
        (
            ("monitor", "--workers", "mail,nobody"),
            "--workers nobody: there is no such worker; the workers are mail, bulk",
        ),
        (("monitor", "--workers", ","), "--workers: is empty"),
        (
            ("monitor", "--output-file", "/no/such/place/x.json"),
            "can't be written to /no/such/place (No such file",
        ),
        (("monitor", "--output-file", "x" * 300), "can't be written"),
        (("monitor", "--output-file", "/"), "is not a regular file"),
        (("monitor", "--output-file", "/dev/null"), "is not a regular file, and would be replaced"),
        (("result", "x"), "'x' is not the id of a task"),
        (("revoke", ID, "a b c d e f g h"), "is not the id of a task"),
        (("revoke",), "Missing argument"),
        (("revoke", ID, "--signal", "TERM"), "--signal only works with --terminate"),
        (("revoke", ID, "--terminate", "--signal", "HURRY"), "--signal HURRY: is not a signal"),
        (("purge", "mail"), "can't ask for confirmation without a terminal; add --yes"),
        (("active", "-t", "0"), "-t"),
    ],
)
def test_mistakes_are_refused_without_asking_a_worker(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], words: str
) -> None:
    def asked(*_: object, **__: object) -> Any:
        raise AssertionError("a worker was asked")

    for name in ("question", "in_release"):
        monkeypatch.setattr(ask, name, asked)
    monkeypatch.setattr(stream.subprocess, "Popen", asked)
    done = call(*argv)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert words in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ("run", "system_health_check"),
        ("run", "system_health_check", "--here"),
    ],
)
def test_only_root_may_run_these_commands(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = call(*argv)
    assert done.exit_code == 3
    assert done.stderr.endswith(f"sudo celery-fleet {' '.join(argv)}\n")


def test_a_task_may_be_sent_to_an_exchange(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no queue is known. Here the store of results can't be asked for the result."""
    answer = {"id": ID, "task": TASKS[1], "queue": None, "ignored": False}
    monkeypatch.setattr(ask, "in_release", lambda *_, **__: {"ok": True, "answer": answer})
    done = call("run", "system_health_check")
    assert done.exit_code == 3
    assert done.stderr.startswith(f"{TASKS[1]} was sent to its exchange as {ID}\n"), done.stderr


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (KeyboardInterrupt, "interrupted"),
        (ask.LateError("no answer within 10 s"), "no answer within 10 s"),
    ],
)
def test_a_task_whose_sending_was_cut_short_can_be_looked_up(
    released: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    ended: type[BaseException] | Exception,
    why: str,
) -> None:
    seen: list[Any] = []

    def in_release(*asked: Any, **__: Any) -> Any:
        seen.append(asked[4])
        raise ended

    monkeypatch.setattr(ask, "in_release", in_release)
    done = call("run", "system_health_check")
    identity = seen[0]["id"]
    assert done.exit_code == 3
    assert done.stderr == (
        f"celery-fleet: {why}; {TASKS[1]} may have been sent all the same, as {identity}:"
        f" celery-fleet task {identity}\n"
    )


def test_one_of_several_applications_is_named_in_what_to_type_next(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    host.install(released, "blog")
    monkeypatch.setattr(ask, "in_release", interrupted)
    done = call("--app", "shop", "run", "system_health_check")
    assert ": celery-fleet --app shop task " in done.stderr


def test_ctrl_c_ends_a_task_that_runs_here(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ask, "in_release", interrupted)
    done = call("run", "system_health_check", "--here")
    assert (done.exit_code, done.stderr.strip()) == (1, "Aborted!")


@pytest.mark.parametrize(
    ("argv", "doubt"),
    [
        (("pause", "--queue", "mail"), "`celery-fleet status` shows what is paused"),
        (("revoke", ID), "workers may have been told all the same"),
        (("scale", "mail", "4"), "the number may have been changed all the same"),
    ],
)
def test_ctrl_c_does_not_hide_that_a_change_may_have_been_made(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], doubt: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ask, "question", interrupted)
    done = call(*argv)
    assert done.exit_code == 3
    assert done.stderr.startswith(f"celery-fleet: interrupted; {doubt}")


@pytest.mark.parametrize("argv", [("tasks",), ("run", "x"), ("monitor",), ("result", ID)])
def test_a_release_that_only_root_may_see_does_not_count_as_missing(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    """The directory of the releases is closed to other users, so they can't know whether there is one."""

    def refused(*_: Any, **__: Any) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "resolve", refused)
    done = call(*argv)
    assert (done.exit_code, done.stderr) == (
        3,
        f"celery-fleet: only root may read {released}/opt/shop/current: sudo celery-fleet {' '.join(argv)}\n",
    )


# --- the queues of tasks ---

GOES_TO = {"goes_to": "celery", "fixed": False}


@pytest.mark.parametrize(
    ("note", "told", "settings", "queue"),
    [
        (GOES_TO, {}, {}, "celery"),
        (GOES_TO, {}, {"task_default_queue": "other"}, "other"),
        ({"goes_to": "own", "fixed": False}, {}, {"task_default_queue": "other"}, "own"),
        (GOES_TO, {}, {"task_routes": {"shop.*": {"queue": "mail"}}}, "mail"),
        (GOES_TO, {}, {"task_routes": {"shop.*": "mail", "shop.add": "bulk"}}, "bulk"),
        (GOES_TO, {}, {"task_routes": {"blog.*": "mail"}}, "celery"),
        ({"goes_to": "slow", "fixed": True}, {}, {"task_routes": {"shop.*": "mail"}}, "slow"),
        (GOES_TO, {"pinned": ["task_routes"]}, {}, None),
        ({"goes_to": None, "fixed": True}, {}, {}, None),
    ],
)
def test_the_queue_of_a_task_is_the_one_that_a_deploy_computes(
    note: dict[str, Any], told: dict[str, Any], settings: dict[str, Any], queue: str | None
) -> None:
    told = {"default_queue": "celery", **told}
    demands = {"settings": settings, "routes": settings.get("task_routes", {})}
    assert suitability.queue_of({"task": "shop.add", **note}, told, demands) == queue
    assert tasks.queue_of("shop.add", {**told, "goes_to": {"shop.add": note}}, settings) == queue


def test_an_older_note_names_tasks_without_queues(released: Path, call: Call) -> None:
    rows = json.loads(call("tasks", "--json").stdout)
    assert [row["task"] for row in rows] == TASKS
    assert {(row["queue"], row["consumed"]) for row in rows} == {(None, None)}


def test_without_a_release(place: Path, call: Call) -> None:
    for argv in (("tasks",), ("run", "x"), ("monitor",), ("result", ID)):
        done = call(*argv)
        assert (done.exit_code, "has no release on worker1" in done.stderr) == (3, True), argv


def test_a_note_that_only_root_may_read(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    application = host.application(released)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        with pytest.raises(CommandError, match="sudo celery-fleet"):
            tasks.registered(application)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"tasks": 1}'])
def test_a_note_that_is_broken(released: Path, call: Call, text: str) -> None:
    (released / "opt/shop/current/release.json").write_text(text)
    done = call("run", "x")
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "release.json can't be read" in done.stderr


COMMANDS = (
    ("monitor",),
    ("result", ID),
    ("revoke", ID),
    ("purge", "mail", "--yes"),
    ("stats",),
)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("argv", COMMANDS)
def test_a_broker_that_is_down(released: Path, call: Call, argv: tuple[str, ...]) -> None:
    done = call(*argv)
    assert done.exit_code == 3
    assert "127.0.0.1:1" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("argv", COMMANDS)
def test_a_broker_that_accepts_and_never_answers(
    released: Path, call: Call, argv: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = released / "etc/shop/credentials/operator.json"
        path.write_text(json.dumps(host.settings(port=server.getsockname()[1])))
        began = time.monotonic()
        done = call(*argv)
    # The command ends within its limit, or later on a busy machine; without a limit it would wait for the server.
    assert time.monotonic() - began < ask.BOUND + 10
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)


@pytest.mark.slow
def test_nested_time_limits_end_with_the_shorter() -> None:
    def nested() -> None:
        with ask.bounded("inner", 5):
            pass
        # The outer one still counts.
        time.sleep(60)

    began = time.monotonic()
    with (
        pytest.raises(CommandError, match=r"^outer: no answer within 0.3 s; "),
        ask.bounded("outer", 0.3),
    ):
        nested()
    with (
        pytest.raises(CommandError, match=r"^inner: no answer within 0.2 s; "),
        ask.bounded("outer", 60),
        ask.bounded("inner", 0.2),
    ):
        time.sleep(60)
    assert time.monotonic() - began < 30


def test_a_time_limit_begins_with_the_process(place: Path) -> None:
    context = Context(host.application(place), False, time.monotonic() - 59.3, 60)
    began = time.monotonic()
    with pytest.raises(CommandError, match=r"^x: no answer within 60 s; "), context.within("x"):
        time.sleep(90)
    # A limit that began here would end after 59.5 s.
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("celery-fleet run sys", ["system_health_check"]),
        ("celery-fleet run core.", TASKS[:2]),
        ("celery-fleet purge m", ["mail"]),
        ("celery-fleet monitor --workers mail,b", ["mail,bulk"]),
        ("celery-fleet active -d bulk", ["bulk@worker1"]),
        ("celery-fleet stop m", ["mail"]),
    ],
)
def test_completion_suggests_values(released: Path, words: str, expected: list[str]) -> None:
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_CELERY_FLEET_COMPLETE": "bash_complete",
    }
    done = CliRunner().invoke(cli, [], prog_name="celery-fleet", env=environment)
    assert [line.partition(",")[2] for line in done.output.splitlines()] == expected


def test_completion_leaves_out_names_that_a_shell_would_read(released: Path) -> None:
    """The script for bash puts a name on root's command line as it is, and the application's code chooses it."""
    path = released / "opt/shop/current/release.json"
    odd = (
        "mail.a;id",
        "mail.$(id)",
        "mail.`id`",
        "mail.a b",
        "mail.a\nid",
        "mail.a\n",
        "mail.ä",
        "mail.*",
    )
    fine = ["mail.send", "mail.Send_2:x@y,z+w-v"]
    path.write_text(json.dumps({"directory": "source", "tasks": [*odd, *fine]}))
    environment = {
        "COMP_WORDS": "celery-fleet run mail.",
        "COMP_CWORD": "2",
        "_CELERY_FLEET_COMPLETE": "bash_complete",
    }
    done = CliRunner().invoke(cli, [], prog_name="celery-fleet", env=environment)
    assert sorted(done.output.splitlines()) == sorted(f"plain,{name}" for name in fine)


# --- purge ---


def test_purge_asks_and_says_how_many(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def question(where: object, name: str, **request: Any) -> Any:
        seen.append(name)
        return {"mail": 3} if name == "lengths" else {"purged": 3}

    monkeypatch.setattr(ask, "question", question)
    monkeypatch.setattr(confirming, "has_terminal", lambda: True)
    asked = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return len(asked) > 1

    monkeypatch.setattr(purge.click, "confirm", confirm)
    done = call("purge", "mail")
    assert (done.exit_code, done.stderr) == (1, "celery-fleet: nothing was deleted\n")
    assert seen == ["lengths"]
    assert call("purge", "mail").stdout == "3 tasks deleted from mail.\n"
    assert asked == ["Delete 3 tasks of the queue mail?"] * 2


def test_purge_refuses_an_unknown_queue_before_it_asks(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "question", lambda *_, **__: {"nix": 0})
    done = call("purge", "nix")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "queue nix: the inventory has bulk, mail, slow" in done.stderr


# --- monitor ---


def line(elapsed: float, span: float = 5, **more: Any) -> dict[str, Any]:
    return {
        "at": 1_700_000_000 + elapsed,
        "elapsed": elapsed,
        "span": span,
        "trouble": None,
        "workers": {"mail@worker1": {"online": True, "source": "events"}},
        "queues": {"mail": 2},
        "counts": {"succeeded": 10, "failed": 1},
        "mean": 0.5,
        "failures": [{"task": "a", "id": "1", "worker": "mail@worker1", "error": "x", "at": 1}],
        "last": False,
        **more,
    }


class Lines:
    """A stream of given lines; exceptions among them are raised."""

    def __init__(self, *found: Any) -> None:
        self.found = found
        self.abandoned = False

    def lines(self, *_: float) -> Any:
        for one in self.found:
            if isinstance(one, BaseException):
                raise one
            yield one

    def stop(self) -> Any:
        yield line(12, 2)

    def abandon(self) -> None:
        self.abandoned = True


def watched(*found: Any) -> tuple[str | None, watching.Summary]:
    summary = watching.Summary()
    given: Any = Lines(*found)
    return monitor.watch(given, summary, lambda _: None, 1, 1, ask.BOUND), summary


def test_the_monitor_computes_sums_and_means() -> None:
    trouble, summary = watched(line(5), line(10, mean=2.0, counts={"succeeded": 5}, failures=[]))
    assert trouble is None
    assert summary.counts == {
        "received": 0,
        "started": 0,
        "succeeded": 15,
        "failed": 1,
        "retried": 0,
    }
    assert summary.mean == 1.0
    assert summary.samples[0].rates["succeeded"] == 2.0
    assert summary.rates["succeeded"] == 1.5
    assert len(summary.failures) == 1


def test_an_error_at_the_start_ends_the_monitor() -> None:
    trouble, summary = watched(line(0.1, trouble="x: refused"), line(5))
    assert trouble == "the broker does not answer: x: refused"
    assert len(summary.samples) == 1


def test_an_error_that_passes_does_not_end_the_monitor() -> None:
    trouble, summary = watched(line(0.1), line(5, trouble="x"), line(10))
    assert (trouble, len(summary.samples)) == (None, 3)


def test_an_error_that_lasts_ends_the_monitor() -> None:
    lines = [line(0.1), *(line(5.0 * number, trouble="x") for number in (1, 2, 3))]
    trouble, summary = watched(*lines)
    assert (trouble, len(summary.samples)) == ("the broker does not answer: x", 3)
    assert watched(line(0.1), line(5, trouble="x"))[0] == "the broker does not answer: x"


def test_missing_or_invalid_samples_are_errors() -> None:
    assert watched(line(1), CommandError("nothing was heard"))[0] == "nothing was heard"
    for mistake in (CommandError("nothing was heard"), {"error": "no such settings"}):
        with pytest.raises(CommandError, match=r"nothing was heard|no such settings"):
            watched(mistake)
    assert "no data about the workers" in str(watched()[0])


def test_ctrl_c_shows_the_last_counts() -> None:
    trouble, summary = watched(line(10), KeyboardInterrupt())
    assert (trouble, summary.samples[-1].elapsed) == (None, 12)


def test_the_monitors_output_for_people() -> None:
    _, summary = watched(
        line(
            5,
            workers={
                "a@h": {"online": False, "source": None},
                "b@h": {"online": True, "source": "totals"},
            },
        )
    )
    console = monitor.output.console()
    with console.capture() as captured:
        console.print(monitor.picture(summary, 60))
    shown = captured.get()
    for text in (
        "5 of 60 s",
        "0.500 s now",
        "1 of 2 online; no answer from a@h",
        "only started tasks are counted: b@h",
    ):
        assert text in shown
    assert "failed: a 1 on mail@worker1: x" in shown
    assert "Queues: mail 2" in shown


def test_the_output_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("before")
    made = watching.OutputFile(str(path))
    made.close()
    assert [one.name for one in tmp_path.iterdir()] == ["out.json"]
    assert path.read_text() == "before"
    (tmp_path / "link").symlink_to("out.json")
    made = watching.OutputFile(str(tmp_path / "link"))
    made.write("after")
    made.close()
    assert path.read_text() == "after"
    assert (tmp_path / "link").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o666 & ~watching._umask()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_of_another_user_is_not_used_as_output_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the kernel's protection: root who writes into /tmp must not be led to one of root's files."""
    everybodys = tmp_path / "tmp"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    target = tmp_path / "passwd"
    target.write_text("root")
    (everybodys / "out.json").symlink_to(target)
    own = os.lstat(everybodys).st_uid
    watching.OutputFile(str(everybodys / "out.json")).close()
    status = os.lstat

    def theirs(path: Any) -> os.stat_result:
        found = list(status(path))
        found[4] = own + 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "lstat", theirs)
    with pytest.raises(CommandError, match="a link that another user has put there") as refused:
        watching.OutputFile(str(everybodys / "out.json"))
    assert refused.value.exit_code == 2
    assert target.read_text() == "root"
    everybodys.chmod(0o755)
    # A link is fine in a directory that other users can't write to.
    watching.OutputFile(str(everybodys / "out.json")).close()


# --- in the release's Python: tasks ---


@pytest.mark.parametrize("propagates", [False, True])
def test_a_task_that_fails_here_is_an_answer(propagates: bool) -> None:
    """The application may have settings for its tests that raise such errors."""
    app = Celery("shop", set_as_current=False)
    app.conf.task_eager_propagates = propagates

    @app.task(name="shop.fail", shared=False)
    def fail() -> None:
        raise ValueError("of its own")

    done = calling.apply(app, {"task": "shop.fail"})

    assert (done["state"], done["ok"]) == ("FAILURE", False)
    assert done["error"] == "ValueError: of its own"
    assert "raise ValueError" in done["traceback"]


# --- in the release's Python: counting ---


def event(kind: str, identity: str = "1", node: str = "a@h", **more: Any) -> dict[str, Any]:
    return {"type": f"task-{kind}", "uuid": identity, "hostname": node, **more}


def test_events_are_counted() -> None:
    tally = monitoring.Tally()
    tally.event(event("received", name="shop.add"))
    tally.event(event("started"))
    tally.event(event("succeeded", runtime=0.5))
    tally.event(event("succeeded", "2", runtime=1.5))
    tally.event(event("received", "3", name="shop.fail"))
    tally.event(event("failed", "3", exception="ValueError('x')", timestamp=7))
    tally.event(event("failed", "4", exception="y"))
    tally.event({"type": "worker-heartbeat", "hostname": "a@h"})
    found = tally.take()
    assert found["counts"] == {
        "received": 2,
        "started": 1,
        "succeeded": 2,
        "failed": 2,
        "retried": 0,
    }
    assert found["mean"] == 1.0
    assert [(one["task"], one["error"]) for one in found["failures"]] == [
        ("shop.fail", "ValueError('x')"),
        (None, "y"),
    ]
    assert tally.take()["counts"] == dict.fromkeys(monitoring.COUNTS, 0)


def test_canaries_are_not_counted() -> None:
    tally = monitoring.Tally()
    tally.event(event("received", name="celery_fleet.canary"))
    tally.event(event("succeeded", runtime=1))
    assert tally.take()["counts"] == dict.fromkeys(monitoring.COUNTS, 0)
    assert questions.total({"total": {"celery_fleet.canary": 7, "shop.add": 2}}) == 2


def test_events_of_unknown_workers_are_not_counted() -> None:
    tally = monitoring.Tally(frozenset({"a@h"}))
    tally.event(event("started", node="b@h"))
    assert tally.take()["counts"]["started"] == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "REMEMBERED", 10)
    tally = monitoring.Tally()
    for number in range(200):
        tally.event(event("received", str(number), name="t"))
        tally.event(event("failed", f"x{number}"))
    assert len(tally._names) == 10
    assert len(tally.take()["failures"]) == monitoring.FAILURES


def test_totals_count_from_the_first_sample_and_through_a_restart() -> None:
    tally = monitoring.Tally()
    for run, begun in ((1, 100), (1, 104), (2, 3), (2, 3)):
        tally.totals("a@h", run, begun)
    assert tally.take()["counts"]["started"] == 4 + 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "must do one of"),
        ('{"do": "apply"}', "application  can't be loaded"),
    ],
)
def test_a_call_always_ends_with_an_answer(text: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery_fleet.ops.tasks"],
        input=text,
        env={"PYTHONPATH": str(host.SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"]) == (1, False)
    assert words in answer["error"]
    assert set(calling.DOINGS) == {"send", "apply", "entry"}


def nothing() -> None:
    """Do nothing; Celery can't read the arguments of a lambda."""


@pytest.mark.parametrize(
    ("everywhere", "own", "ignored"),
    [(True, False, False), (True, None, True), (False, True, True), (False, None, False)],
)
def test_a_tasks_own_setting_says_whether_it_leaves_a_result(
    everywhere: bool, own: bool | None, ignored: bool
) -> None:
    app = Celery("shop", set_as_current=False, broker="memory://", task_ignore_result=everywhere)
    app.task(name="shop.add", ignore_result=own, shared=False)(nothing)
    assert calling.send(app, {"task": "shop.add", "id": ID})["ignored"] is ignored


@pytest.mark.slow
def test_monitoring_ends_when_it_is_told_to(place: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "celery_fleet.ops.monitoring"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(host.SOURCE)},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"settings": host.settings(), "duration": 600, "interval": 300}
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    with process.stdout as output:
        assert "127.0.0.1:1" in json.loads(output.readline())["trouble"]
        threading.Timer(0.1, process.terminate).start()
        last = json.loads(output.readline())
    assert (process.wait(10), last["last"]) == (0, True)
