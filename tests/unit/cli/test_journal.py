"""What `celery-fleet task` takes from the journal: Celery's own log entries, and how they join the history."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app import trace
from celery.exceptions import Ignore, Reject

from celery_fleet.cli import ask, journal
from celery_fleet.cli.errors import CommandError
from celery_fleet.supervision.journal import JsonFormatter, task_fields
from tests.unit.cli import host
from tests.unit.cli.conftest import Call

ID = "6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6"
SENT = 1_700_000_000.0
NODE = "mail@worker1"


def entry(words: str, when: float, **more: Any) -> dict[str, Any]:
    """An entry as journalctl prints it; `when` is in seconds after `SENT`."""
    return {
        "__REALTIME_TIMESTAMP": "1",
        "_SOURCE_REALTIME_TIMESTAMP": str(int((SENT + when) * 1e6)),
        "_SYSTEMD_INVOCATION_ID": "a1",
        "MESSAGE": f"[2023-11-14 22:13:20,000: INFO/MainProcess] Task shop.add[{ID}] {words}",
        "CELERY_WORKER": "mail",
        "CELERY_TASK": "shop.add",
        "CELERY_RELEASE": "r1",
        **more,
    }


LIFE = (entry("received", 1), entry("succeeded in 1.5s: None", 3, CELERY_QUEUE="mail"))


def states(*entries: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (
            run["state"],
            run["received"] and run["received"] - SENT,
            run["ended"] and run["ended"] - SENT,
        )
        for run in journal.runs(entries, "worker1", ID)
    ]


class Entries(logging.Handler):
    """Keeps the fields that a record has in the journal."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = {f"CELERY_{name.upper()}": value for name, value in task_fields(record).items()}
        self.kept.append({**entry("", 2), **fields, "MESSAGE": self.format(record)})


@pytest.fixture
def logged() -> Iterator[Entries]:
    found = Entries()
    logger = logging.getLogger(trace.__name__)
    assert trace.__name__ in journal.LOGGERS
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(found)
    yield found
    logger.removeHandler(found)
    logger.setLevel(level)


@pytest.mark.parametrize("formatter", [logging.Formatter(), JsonFormatter("shop", "mail")])
@pytest.mark.parametrize(
    ("error", "state", "detail"),
    [
        (None, "succeeded", float),
        (KeyError("s3cret"), "failed", "KeyError"),
        (Ignore(), "ignored", None),
        (Reject("s3cret"), "rejected", None),
    ],
)
def test_what_celery_logs_of_an_end_is_understood(
    logged: Entries, formatter: logging.Formatter, error: Any, state: str, detail: Any
) -> None:
    logged.setFormatter(formatter)
    app = Celery("shop", set_as_current=False)

    @app.task(name="shop.pay", shared=False)  # type: ignore[untyped-decorator]  # Celery ships no types
    def pay() -> str:
        if error is not None:
            raise error
        return f"Task shop.pay[{ID}] received"

    pay.apply(task_id=ID)
    (run,) = journal.runs(logged.kept, "worker1", ID)
    assert (run["name"], run["node"], run["state"]) == ("shop.pay", NODE, state)
    assert run["detail"] == detail or type(run["detail"]) is detail
    assert "s3cret" not in json.dumps(run)


@pytest.mark.parametrize(
    ("template", "state"), [(trace.LOG_RECEIVED, "received"), (trace.LOG_RETRY, "retried")]
)
def test_what_celery_logs_without_an_end_is_understood(template: str, state: str) -> None:
    text = template.strip() % {"name": "shop.add", "id": ID, "exc": "Retry in 3s"}
    assert states(entry("", 1, MESSAGE=text))[0][0] == state


def test_names_of_tasks_may_have_spaces() -> None:
    assert states(entry("", 1, MESSAGE=f"Task send the mail[{ID}] received"))[0][0] == "received"


def test_a_run_of_the_journal() -> None:
    (run,) = journal.runs(LIFE, "worker1", ID)
    assert run == {
        "id": ID,
        "name": "shop.add",
        "queue": "mail",
        "origin": None,
        "sent": None,
        "eta": None,
        "received": SENT + 1,
        "started": SENT + 1.5,
        "ended": SENT + 3,
        "state": "succeeded",
        "detail": 1.5,
        "node": NODE,
        "release": "r1",
        "source": "journal",
    }


def test_a_task_that_retries_at_once_is_received_before_its_first_run_ends() -> None:
    found = states(
        entry("received", 1),
        entry("received", 2),
        entry("retry: Retry in 0s", 3),
        entry("succeeded in 1s: None", 4),
    )
    assert found == [("retried", 1, 3), ("succeeded", 2, 4)]


def test_a_run_of_a_killed_worker_does_not_end_in_the_next_process() -> None:
    found = states(
        entry("received", 1),
        entry("received", 5, _SYSTEMD_INVOCATION_ID="b2"),
        entry("succeeded in 1s: None", 6, _SYSTEMD_INVOCATION_ID="b2"),
    )
    assert found == [("received", 1, None), ("succeeded", 5, 6)]


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (list(f"Task shop.add[{ID}] received\x1b[0m".encode()), [("received", 1, None)]),
        ([f"Task shop.add[{ID}] received", "another"], [("received", 1, None)]),
        (f"Task shop.add[{ID}] succeeded in nans: 1", [("succeeded", None, 1)]),
        ("Task shop.add[7-7] received", []),
        ("said by a task", []),
        (None, []),
    ],
)
def test_odd_messages(message: Any, found: list[Any]) -> None:
    assert states(entry("", 1, MESSAGE=message)) == found


def test_an_entry_of_no_worker_is_passed_over() -> None:
    assert states(entry("received", 1, CELERY_WORKER=None)) == []


def run(received: float, ended: float | None, **more: Any) -> dict[str, Any]:
    """A run in the history; times in seconds after `SENT`."""
    return {
        "id": ID,
        "name": "shop.add",
        "queue": "mail",
        "origin": "gen1@web1",
        "sent": SENT,
        "eta": None,
        "received": SENT + received,
        "started": SENT + received,
        "ended": None if ended is None else SENT + ended,
        "state": "started" if ended is None else "succeeded",
        "detail": None,
        "node": NODE,
        "release": "r1",
        **more,
    }


def together(history: list[dict[str, Any]], *entries: dict[str, Any]) -> list[tuple[Any, ...]]:
    found = journal.merged(history, journal.runs(entries, "worker1", ID))
    return [(one["source"], one["node"], one["state"]) for one in found]


def test_a_run_that_both_have_is_there_once() -> None:
    assert together([run(1.002, 2.998)], *LIFE) == [("history", NODE, "succeeded")]
    assert together([], *LIFE) == [("journal", NODE, "succeeded")]


def test_a_run_of_another_worker_is_another_run() -> None:
    found = together([run(1, 3, node="mail@worker2")], *LIFE)
    assert found == [("history", "mail@worker2", "succeeded"), ("journal", NODE, "succeeded")]


def test_an_earlier_run_that_the_history_lacks_comes_first() -> None:
    found = together([run(10, 12)], entry("received", 1), entry("retry: Retry in 5s", 3))
    assert found == [("journal", NODE, "retried"), ("history", NODE, "succeeded")]


def test_a_run_gets_the_end_that_only_the_journal_has() -> None:
    """The history lost it with the result store, or has not written it yet."""
    (one,) = journal.merged([run(1, None)], journal.runs(LIFE, "worker1", ID))
    assert (one["state"], one["ended"], one["started"]) == ("succeeded", SENT + 3, SENT + 1)


def test_a_failure_without_the_rest_is_that_of_the_run_that_ended_then() -> None:
    """At the level WARNING the journal only has failures."""
    failure = entry("raised unexpected: KeyError('s3cret')", 9)
    died, failed = run(1, None), run(5, 9.01, state="failed")
    assert together([died, failed], failure) == [
        ("history", NODE, "started"),
        ("history", NODE, "failed"),
    ]
    assert together([died], failure) == [("history", NODE, "failed")]
    assert together([run(1, 4)], failure)[1] == ("journal", NODE, "failed")


# --- the command ---

PENDING = {"state": "PENDING", "done": None}
EMPTY = {"id": ID, "runs": [], "since": SENT, "whole": True, "result": PENDING}
FOUND = {"runs": [run(1, 3)], "result": {"state": "SUCCESS", "done": None}}


@pytest.fixture
def fleet(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three hosts with workers; this one's journalctl prints the file `entries`, and keeps its arguments."""
    document = host.document(place)
    document["hosts"] |= {"worker2": ["celery_workers"], "worker3": ["celery_workers"]}
    document["workers"] |= {"mail@worker2": ["mail"], "bulk@worker3": ["bulk"]}
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    program = place / "journalctl"
    program.write_text(f'#!/bin/sh\necho "$@" >{place}/arguments\ncat {place}/entries\n')
    program.chmod(0o755)
    monkeypatch.setattr(journal, "JOURNALCTL", str(program))
    write(place, *LIFE)
    return place


def write(place: Path, *entries: dict[str, Any]) -> None:
    (place / "entries").write_text("".join(json.dumps(one) + "\n" for one in entries))


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the history has; `error` instead is why it can't be asked."""
    found = dict(EMPTY)

    def question(*_: Any, **__: Any) -> dict[str, Any]:
        if "error" in found:
            raise CommandError(found["error"])
        return dict(found)

    monkeypatch.setattr(ask, "question", question)
    return found


@pytest.mark.usefixtures("answer")
def test_an_error_may_have_line_separators_that_are_no_line_ends(fleet: Path, call: Call) -> None:
    """journalctl leaves them as they are; texts from web pages have them."""
    entries = (LIFE[0], entry("raised unexpected: ValueError('a\u2028b\x85c')", 3))
    lines = [json.dumps(one, ensure_ascii=False) for one in entries]
    (fleet / "entries").write_text("\n".join(lines) + "\n")
    done = call("task", ID)
    assert (done.exit_code, "failed" in done.stdout) == (0, True), done.stderr


OTHERS = f"logs that were not searched: sudo celery-fleet logs --task {ID} on worker2, worker3"


@pytest.mark.usefixtures("answer")
def test_the_journal_has_what_the_history_lacks(fleet: Path, call: Call) -> None:
    done = call("task", ID)
    assert done.exit_code == 0
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert rows[:5] == [
        "shop.add, 1 run",
        "when (UTC) after where what",
        "2023-11-14 22:13:21.000 mail@worker1 was received from the queue mail",
        "2023-11-14 22:13:21.500 0.5 s mail@worker1 was started",
        "2023-11-14 22:13:23.000 1.5 s mail@worker1 succeeded",
    ]
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()][1:] == [
        "this is what the journal of worker1 has: workers don't log when a task was sent",
        OTHERS,
    ]
    assert "no worker has received it since 2023" in done.stderr
    arguments = (fleet / "arguments").read_text()
    # A field of a process's own would let any process write about tasks.
    assert "--unit=shop-worker@*.service LOGGER=celery.worker.strategy" in arguments
    assert "CELERY_APP" not in arguments
    assert f"CELERY_TASK_ID={ID}" in arguments
    (one,) = json.loads(call("--json", "task", ID).stdout)["runs"]
    assert one["source"] == "journal"


def test_a_run_without_an_end_is_not_said_to_run(
    fleet: Path, call: Call, answer: dict[str, Any]
) -> None:
    write(fleet, LIFE[0])
    assert "has no end in the journal" in call("task", ID).stdout


def test_a_history_that_has_it_says_nothing_of_journals(
    fleet: Path, call: Call, answer: dict[str, Any]
) -> None:
    answer.update(FOUND)
    done = call("task", ID)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("was received") == 1
    assert "Result: SUCCESS" in done.stdout


@pytest.mark.usefixtures("answer")
def test_a_task_that_neither_has(fleet: Path, call: Call) -> None:
    write(fleet)
    done = call("task", ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the journal of worker1 does not have it; at a loglevel above INFO" in done.stderr
    assert OTHERS in done.stderr


def test_a_result_store_that_is_down(fleet: Path, call: Call, answer: dict[str, Any]) -> None:
    answer["error"] = "the result store can't be asked: refused"
    done = call("task", ID)
    assert done.exit_code == 0
    assert "succeeded" in done.stdout
    assert "Result:" not in done.stdout
    assert done.stderr.startswith("celery-fleet: the result store can't be asked: refused\n")
    write(fleet)
    done = call("task", ID)
    assert done.exit_code == 3
    assert done.stderr.startswith("celery-fleet: the result store can't be asked: refused\n")


@pytest.mark.usefixtures("answer")
def test_a_journal_that_can_not_be_read(
    fleet: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet / "journalctl").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    done = call("task", ID)
    assert done.exit_code == 1
    assert f"the journal of worker1 was not searched: {fleet}/journalctl: broken" in done.stderr
    monkeypatch.setattr(journal, "JOURNALCTL", str(fleet / "none"))
    assert "can't be run: No such file" in call("task", ID).stderr


@pytest.mark.usefixtures("answer")
def test_a_host_without_workers(fleet: Path, call: Call) -> None:
    """journalctl would fail: no unit of its journal has such a name."""
    path = fleet / "etc/shop/cli.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "control1"}))
    assert "no worker runs on control1" in call("task", ID).stderr


@pytest.mark.usefixtures("answer")
def test_an_application_that_logs_to_files(fleet: Path, call: Call) -> None:
    path = fleet / "etc/shop/cli.json"
    logs = {"destination": "file", "directory": "/var/log/shop"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "logs": logs}))
    done = call("task", ID)
    assert done.exit_code == 1
    assert "the journal of worker1 was not searched, because shop logs to files" in done.stderr
    assert f"celery-fleet logs --task {ID} on worker1, worker2, worker3" in done.stderr


def test_without_the_operators_settings_the_journal_is_not_read(fleet: Path, call: Call) -> None:
    (fleet / "etc/shop/credentials/operator.json").unlink()
    done = call("task", ID)
    assert done.exit_code == 3
    assert "operator.json is missing on worker1" in done.stderr
    assert not (fleet / "arguments").exists()


@pytest.mark.usefixtures("fleet")
def test_a_longer_time_is_for_the_search(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release's Python ends what takes longer than the time of the command that is left."""
    seen = []

    def question(*_: Any, seconds: float, **__: Any) -> dict[str, Any]:
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        seen.append((seconds, left - ask.START))
        return {**EMPTY, **FOUND}

    monkeypatch.setattr(ask, "question", question)
    assert call("--timeout", "60", "task", ID).exit_code == 0
    ((seconds, whole),) = seen
    assert 50 < seconds < whole
