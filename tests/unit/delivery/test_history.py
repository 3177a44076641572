"""The history of tasks, with a real worker and real Redis servers with the roles' users."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery_fleet.delivery.keys import FIRST_SENT, HISTORY, SENT
from celery_fleet.ops import history as reader
from celery_fleet.ops import questions
from celery_fleet.worker import history as writer
from tests.fleet import NODE, Fleet, client, running, wait_for

pytestmark = pytest.mark.slow

MORE = """
from shop import app

@app.task(name="shop.ignored")
def ignored():
    from celery.exceptions import Ignore
    raise Ignore

@app.task(bind=True, max_retries=1, name="shop.again")
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=0.1)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return a fleet that a test may change or break."""
    with with_history(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a fleet for tests that only send tasks; its worker also has the tasks of MORE."""
    directory = tmp_path_factory.mktemp("shared")
    (directory / "more.py").write_text(MORE)
    with with_history(directory, "--include", "more") as found:
        yield found


def with_history(directory: Path, *more: str) -> Any:
    """Run a fleet whose workers write their history at once, instead of every 2 s."""
    (directory / "sitecustomize.py").write_text(
        "import celery_fleet.worker.history as history\nhistory.INTERVAL = 0.2\n"
    )
    return running(directory, *more, history=1)


def ask(fleet: Fleet, task_id: str, seconds: float = 5) -> dict[str, Any]:
    """Ask as `celery-fleet task` does."""
    request = {"question": "task", "id": task_id, "seconds": seconds}
    answer = questions.answer({**request, "settings": fleet.settings("operator")})
    assert answer["ok"], answer
    found: dict[str, Any] = answer["answer"]
    return found


def runs(fleet: Fleet, task_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(fleet, task_id)["runs"]
    return found


def over(fleet: Fleet, task_id: str, number: int = 1) -> list[dict[str, Any]]:
    """Wait until this many runs are over."""
    wait_for(lambda: [run["ended"] is not None for run in runs(fleet, task_id)] == [True] * number)
    return runs(fleet, task_id)


def send(fleet: Fleet, name: str, *args: Any, **options: Any) -> str:
    task_id = str(uuid.uuid4())
    fleet.app().send_task(f"shop.{name}", args, task_id=task_id, queue="mail", **options)
    return task_id


@pytest.mark.parametrize(
    ("name", "args", "states", "detail"),
    [
        ("add", [1, 2], ["succeeded"], None),
        ("fail", ["s3cret"], ["failed"], "ValueError"),
        ("again", [], ["retried", "succeeded"], None),
        ("ignored", [], ["ignored"], None),
    ],
)
def test_each_way_a_task_ends_is_in_the_history(
    shared: Fleet, name: str, args: list[Any], states: list[str], detail: str | None
) -> None:
    began = time.time()
    task_id = send(shared, name, *args)
    found = over(shared, task_id, len(states))
    assert [run["state"] for run in found] == states
    for run in found:
        assert (run["node"], run["queue"], run["name"]) == (NODE, "mail", f"shop.{name}")
        moments = [began - 1, run["received"], run["started"], run["ended"], time.time() + 1]
        assert moments == sorted(moments)
    if detail:
        assert found[0]["detail"] == detail
    assert "s3cret" not in str(ask(shared, task_id))
    assert shared.refused() == []


def test_a_replayed_task_shows_when_it_was_sent_first(shared: Fleet) -> None:
    now = time.time()
    task_id = send(shared, "again", headers={SENT: now, FIRST_SENT: now - 3 * 86400})
    first, retry = over(shared, task_id, 2)
    assert first["sent"] == now - 3 * 86400, "the search would end before the earlier runs"
    assert retry["sent"] >= now - 1, "a retry is a message of its own"


def test_a_running_task_is_in_the_history(shared: Fleet) -> None:
    task_id = send(shared, "until", "ended")
    try:
        wait_for(lambda: [run["state"] for run in runs(shared, task_id)] == ["started"])
        time.sleep(1)
    finally:
        (shared.directory / "ended").touch()
    (run,) = over(shared, task_id)
    assert run["state"] == "succeeded"
    assert run["detail"] >= 1


def test_a_task_that_waits_for_its_eta_is_in_the_history(shared: Fleet) -> None:
    task_id = send(shared, "add", 1, 2, countdown=600)
    wait_for(lambda: runs(shared, task_id))
    (run,) = runs(shared, task_id)
    assert (run["state"], run["started"]) == ("received", None)
    assert run["eta"] > time.time() + 500


def test_the_history_outlives_a_worker_that_is_killed(fleet: Fleet) -> None:
    done, running_ = send(fleet, "add", 1, 2), send(fleet, "slow", 600)
    over(fleet, done)
    wait_for(lambda: [run["state"] for run in runs(fleet, running_)] == ["started"])
    fleet.processes["worker"].kill()
    fleet.processes["worker"].wait(30)
    assert runs(fleet, done)[0]["state"] == "succeeded"
    assert runs(fleet, running_)[0]["ended"] is None


def test_a_worker_that_ends_records_what_it_hands_back(fleet: Fleet) -> None:
    task_id = send(fleet, "add", 1, 2, countdown=600)
    wait_for(lambda: runs(fleet, task_id))
    fleet.processes["worker"].terminate()
    fleet.processes["worker"].wait(60)
    (run,) = runs(fleet, task_id)
    assert run["state"] == "returned"


def test_a_task_that_no_worker_has_received(shared: Fleet) -> None:
    over(shared, send(shared, "add", 1, 2))
    found = ask(shared, str(uuid.uuid4()))
    assert (found["runs"], found["whole"]) == ([], True)
    assert time.time() - 3600 < found["since"] < time.time()


def test_a_server_that_forbids_it_only_costs_the_history(fleet: Fleet) -> None:
    admin = client(fleet.ports["results"], "admin")
    admin.execute_command("ACL", "SETUSER", "worker", "-xadd")
    task_id = send(fleet, "note", 1)
    wait_for(lambda: "the history of tasks is off until this worker restarts" in fleet.log())
    send(fleet, "note", 2)
    wait_for(lambda: fleet.ledger() == [1, 2])
    assert runs(fleet, task_id) == []
    assert fleet.log().count("the history of tasks") == 1
    assert len(fleet.refused()) == 1


def test_a_server_that_hangs_slows_no_task(fleet: Fleet) -> None:
    """The tasks have no result, because Celery itself waits for the result store."""
    send(fleet, "note", 0)
    wait_for(lambda: fleet.ledger() == [0])
    server = fleet.processes["results"]
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for number in range(1, 101):
            send(fleet, "note", number, ignore_result=True)
        # Each would wait for 3 s.
        wait_for(lambda: len(fleet.ledger()) == 101)
        wait_for(lambda: "the history of tasks has gaps" in fleet.log())
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_the_stream_stays_below_its_size(tmp_path: Path) -> None:
    with with_history(tmp_path) as fleet:
        full = client(fleet.ports["results"], "worker")
        content = os.urandom(5000)
        for _ in range(400):
            full.xadd(HISTORY, {"b": content})
        assert full.memory_usage(HISTORY) > 1.8 * 2**20
        fleet.processes["worker"].terminate()
        fleet.processes["worker"].wait(60)
        (tmp_path / "sitecustomize.py").write_text(
            "import celery_fleet.worker.history as history\nhistory.INTERVAL = history.TRIM = 0.2\n"
        )
        options = ("-n", NODE, "-Q", "mail", "-P", "threads", "-c", "2", "-l", "WARNING")
        fleet.processes["worker"] = fleet.start("celery", "-A", "shop", "worker", *options)
        wait_for(lambda: full.memory_usage(HISTORY) < 2**20)
        # The newest entries stay, also those of another version.
        assert full.xlen(HISTORY) > 100
        task_id = send(fleet, "add", 1, 2)
        over(fleet, task_id)
        fleet.processes["worker"].terminate()
        fleet.processes["worker"].wait(60)


@pytest.mark.parametrize(
    "content", [b"", b"x", reader.zlib.compress(b"{"), reader.zlib.compress(b"0" * 20_000_000)]
)
def test_a_damaged_entry_is_ignored(content: bytes) -> None:
    assert list(reader.records(content, "7-7")) == []


SOUND = ["7-7", "shop.add", "mail", None, 1.5, None, 2.0, None, None, "received", None]


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (4, 1e300),
        (4, float("nan")),
        (6, None),
        (6, []),
        (7, "yesterday"),
        (8, -1),
        (9, []),
        (1, None),
        (3, {}),
        (10, [1]),
    ],
)
def test_a_damaged_record_costs_only_itself(position: int, value: Any) -> None:
    """A task can write to the history with its worker's credentials."""
    bad = [*SOUND[:position], value, *SOUND[position + 1 :]]
    document = {"node": "mail@h", "release": None, "tasks": [bad, SOUND[:5], 7, SOUND]}
    content = reader.zlib.compress(json.dumps(document).encode())
    (found,) = reader.records(content, "7-7")
    assert (found["node"], found["received"]) == ("mail@h", 2.0)


@pytest.mark.parametrize("document", ["[" * 200_000 + '"7-7"', '["7-7"]', '{"tasks": ["7-7"]}'])
def test_a_damaged_document_is_ignored(document: str) -> None:
    assert list(reader.records(reader.zlib.compress(document.encode()), "7-7")) == []


def test_records_that_do_not_fit_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    history = writer.History()
    record = writer.Record("7-7", "shop.add", "mail", None, None, None, 2.0)
    stream = writer.HistoryWriter("mail@h", history, SimpleNamespace(xadd=lambda *_: None), 1 << 20)
    for _ in range(2):
        for _ in range(writer.WAITING + 1):
            history._keep(record)
        stream.turn()
    assert [one.message for one in caplog.records] == [
        "the history of tasks has gaps: more than 10000 tasks ended before it could be written"
    ]


def test_an_error_is_logged_once_until_something_is_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    history = writer.History()
    answers: list[Any] = [OSError("away"), OSError("away"), None]

    def xadd(*_: object) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    stream = writer.HistoryWriter("mail@h", history, SimpleNamespace(xadd=xadd), 1 << 20)
    for _ in range(3):
        history._keep(writer.Record("7-7", "shop.add", "mail", None, None, None, 2.0))
        stream.turn()
        stream.turn()  # nothing to write
    assert answers == []
    assert len(caplog.records) == 1


def test_the_end_is_written_if_the_server_is_back() -> None:
    history = writer.History()
    record = writer.Record("7-7", "shop.add", "mail", None, None, None, 2.0)
    answers: list[Any] = [OSError("away"), None]

    def xadd(*_: object) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    stream = writer.HistoryWriter("mail@h", history, SimpleNamespace(xadd=xadd), 1 << 20)
    history._keep(record)
    stream.turn()
    stream.turn()  # it trims the stream then
    history._keep(record)
    stream.end()
    assert answers == []


def test_a_search_ends_in_time_and_reports_how_far_it_got() -> None:
    data = reader.zlib.compress(json.dumps({"node": NODE, "release": None, "tasks": []}).encode())

    class Endless:
        def xrevrange(self, *_: Any, count: int, **__: Any) -> Any:
            time.sleep(0.05)
            return [
                (f"{1_700_000_000_000 - number}-0".encode(), {b"b": data})
                for number in range(count)
            ]

    began = time.monotonic()
    found = reader.search(Endless(), "7-7", 0.3)
    assert time.monotonic() - began < 30
    assert (found["runs"], found["whole"]) == ([], False)
    assert found["since"] == pytest.approx(1_700_000_000, abs=1)


def test_a_search_stops_before_the_task_was_sent() -> None:
    sent = time.time()
    record = ["7-7", "shop.add", "mail", None, sent, None, sent, sent, sent, "succeeded", 0.1]
    document = {"format": 1, "node": NODE, "release": None, "tasks": [record]}
    data = reader.zlib.compress(json.dumps(document).encode())
    pages = []

    class Long:
        def xrevrange(self, *_: Any, count: int, **__: Any) -> Any:
            pages.append(count)
            newest = int((sent - 3600 * (len(pages) - 1)) * 1000)
            return [(f"{newest - number}-0", {"b": data}) for number in range(count)]

    found = reader.search(Long(), "7-7", 60)
    assert len(pages) == 2
    assert found["whole"]
    assert len(found["runs"]) == 1


def test_a_redis_that_is_down_is_an_error_in_one_line(fleet: Fleet) -> None:
    server = fleet.processes["results"]
    server.terminate()
    server.wait(30)
    request = {"question": "task", "id": "7-7-7-7-7", "settings": fleet.settings("operator")}
    answer = questions.answer(request)
    assert not answer["ok"]
    assert "the result store can't be asked" in answer["error"]
