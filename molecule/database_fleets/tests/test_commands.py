"""Each operator's command in the documents has an equivalent, which answers in time with the right status.

The broker is up, stopped, or hanging. Commands that make no sense are refused. All commands are typed here by hand.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import documented
import means
import pytest
from support import fleets, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Done, Fleet

BOUND = 10  # seconds within which each command answers
PYTHON = 2  # seconds more that a busy machine may take to start it
SIDE_BY_SIDE = 3  # commands at once while the broker hangs, each of which waits for its own end

OK, BAD, USAGE, NOBODY = 0, 1, 2, 3
HEALTH_TASK = "system_health_check"

# What replaces the management commands in the document of marketplace_ops, with a part of the answer.
ANSWERS = [
    ("status", r"All is well"),
    ("status --detailed", r"suppliers@worker1"),
    ("status --format json --detailed", r'"ok": true'),
    ("tasks", r"orchestration\.tasks\.execute_workflow"),
    (f"run {HEALTH_TASK}", r"state"),
    (f"run {HEALTH_TASK} --here", r"state"),
    ("run sync_all_suppliers --async", r"[0-9a-f]{8}-[0-9a-f-]{27}"),
    ("monitor --duration 4 --interval 2", r"suppliers"),
    ("monitor --duration 3 --interval 1 --workers suppliers,marketplaces", r"marketplaces"),
    ("schedule", r"Sync All Suppliers"),
    ("health", r"(?i)good"),
    ("active", r""),
    ("scheduled", r""),
    ("reserved", r""),
    ("registered", r"core\.tasks\.backup_database"),
    ("stats", r"analytics@worker1"),
    ("conf", r"(?i)timezone"),
    ("inspect ping", r"maintenance@worker2"),
    ("logs beat -n 50", r"beat"),
]

# With JSON output, each answer is one document.
IN_JSON = [
    *("status", "status --detailed", "tasks", f"run {HEALTH_TASK}", "schedule", "health"),
    *("active", "scheduled", "reserved", "registered", "stats", "conf"),
    "monitor --duration 2 --interval 1",
]


@pytest.mark.stage(1)
@pytest.mark.parametrize(("words", "answer"), ANSWERS)
def test_a_command_answers(market: Fleet, words: str, answer: str) -> None:
    done = fleets.must(market, market.one("celery_beat"), words)
    assert re.search(answer, done.output, re.MULTILINE), done.text[-3000:]
    assert "Traceback (most recent call last)" not in done.text


@pytest.mark.stage(1)
@pytest.mark.parametrize("words", IN_JSON)
def test_a_command_answers_in_json(market: Fleet, words: str) -> None:
    done = fleets.must(market, market.one("celery_beat"), f"{words} --format json")
    # A live view prints one line for each update.
    lines = done.output.splitlines() if words.startswith("monitor") else [done.output]
    assert all(json.loads(line) is not None for line in lines)


@pytest.mark.stage(1)
@pytest.mark.parametrize("command", sorted({words.split()[0] for words, _ in ANSWERS}))
def test_help_has_examples(market: Fleet, command: str) -> None:
    done = fleets.must(market, market.one("celery_workers"), f"{command} --help")
    assert re.search(rf"celery-fleet .*{command}", done.output), done.output


def test_tasks_with_their_queues_by_short_names(market: Fleet) -> None:
    found = means.ask(market, market.one("celery_producers"), "tasks")
    assert {one["task"]: one["queue"] for one in found} == documented.QUEUES
    assert {one["name"] for one in found} == {task.rpartition(".")[2] for task in documented.QUEUES}


def test_documented_call_with_arguments(market: Fleet) -> None:
    """The options `--args "[1]" --kwargs '{"force_full_sync": true}'`, unchanged."""
    words = ["run", "sync_supplier_products", "--args", "[1]"]
    words += ["--kwargs", '{"force_full_sync": true}']
    found = means.ask(market, market.one("celery_producers"), words)
    assert (found["task"], found["state"]) == ("suppliers.tasks.sync_supplier_products", "SUCCESS")


def test_result_and_revoke(market: Fleet) -> None:
    """One task's result is looked up later; another task is revoked before it starts."""
    host = market.one("celery_producers")
    sent = means.ask(market, host, f"run {HEALTH_TASK} --async")
    found = means.ask(market, host, f"result {sent['id']} --wait 8")
    assert (found["id"], found["state"]) == (sent["id"], "SUCCESS")
    held = fleets.send(market, fleets.task("core.tasks.system_health_check", countdown=12))[0]
    fleets.must(market, host, f"revoke {held.id}")
    found = wait_for(
        "it is revoked once it is due",
        30,
        lambda: (answer := means.ask_any(market, host, f"result {held.id}"))["ready"] and answer,
        pause=2,
    )
    assert found["state"] == "REVOKED"


def test_monitor_counts_and_writes_to_a_file(market: Fleet, label: str) -> None:
    """While tasks run, the updates together show as many tasks as were sent."""
    host = market.one("celery_producers")
    path = f"/tmp/monitor-{label}.json"
    words = f"monitor --duration 8 --interval 2 --output-file {path}"

    def send() -> None:
        # Send after the monitor has started.
        time.sleep(3)
        fleets.send(market, *[fleets.task("core.tasks.system_health_check", wait=30)] * 5)

    answers: list[fleets.Answer] = []
    means.at_once(lambda: answers.append(fleets.must(market, host, words)), send)
    (answer,) = answers
    assert 8 <= answer.seconds <= 8 + BOUND
    found = json.loads(market.must(host, ["cat", path]))
    assert found["app"] == fleets.app_of(market)
    assert found["summary"]["counts"]["succeeded"] >= 5
    assert len(found["samples"]) >= 3
    assert found["samples"][-1]["workers"].keys() == fleets.nodes(market).keys()
    assert market.must(host, ["stat", "-c", "%U", path]).strip() == "root"


# --- what starts and stops -------------------------------------------------------------------------


@pytest.mark.stage(4)
def test_workers_of_a_host_stop_start_and_restart(market: Fleet) -> None:
    """First one worker by its name, which does not affect the others; then all workers of this host."""
    app, host = fleets.app_of(market), market.one("celery_workers")
    before = fleets.pids(market)
    enabled = market.expected[host]["celery_worker_host_instances"]
    mine = [f"{app}-worker@{name}.service" for name in enabled]
    first = mine[0]
    name = first.partition("@")[2].removesuffix(".service")
    try:
        fleets.must(market, host, f"stop {name}")
        assert units.state(market, host, first)["ActiveState"] == "inactive"
        again = fleets.call(market, host, f"stop {name}")
        assert again.status == OK, "to stop what is stopped is no error"
        # A worker that is down is a bad state, also for `status` on another host.
        assert fleets.call(market, market.one("celery_beat"), "status").status == BAD
        fleets.must(market, host, f"start {name}")
        units.wait_until_up(market, 60)
        now = fleets.pids(market)
        assert {key for key in before if before[key] != now.get(key)} == {(host, first)}
        fleets.must(market, host, "restart")
        units.wait_until_up(market, 60)
        later = fleets.pids(market)
        assert {key for key in now if now[key] != later.get(key)} == {(host, unit) for unit in mine}
    finally:
        market.must(host, ["systemctl", "start", *mine])
        units.wait_until_up(market, 60)


def at_a_terminal(fleet: Fleet, host: str, words: str, typed: str) -> Done:
    """Run a command at a terminal and type an answer to its question."""
    line = f"celery-fleet --app {fleets.app_of(fleet)} {words}"
    return fleet.execute(host, ["script", "-qec", line, "/dev/null"], f"{typed}\n", 60)


@pytest.mark.stage(4)
def test_purge_asks_and_says_how_many(market: Fleet) -> None:
    """The queue's worker is stopped meanwhile."""
    app, host, queue = fleets.app_of(market), market.one("celery_workers"), "analytics"
    task = documented.TASKS[queue][-1]
    with fleets.stopped(market, host, f"{app}-worker@{queue}.service"):
        fleets.send(market, *[fleets.task(task)] * 7)
        assert means.waiting(market, queue) == 7
        asked = at_a_terminal(market, host, f"purge {queue}", "n")
        assert (asked.status, "7 tasks" in asked.output) == (BAD, True), asked.output
        assert means.waiting(market, queue) == 7
        # Without an answer nothing is deleted.
        silent = fleets.call(market, host, f"purge {queue}", "y\n")
        assert (silent.status, means.waiting(market, queue)) == (USAGE, 7), silent.text
        done = fleets.must(market, host, f"purge {queue} --yes")
        assert "7" in done.text
        assert means.waiting(market, queue) == 0


# --- mistakes ------------------------------------------------------------------------

# The command, and the only line on standard error.
MISTAKES = [
    ("run system_health_chek", r"system_health_check"),
    ("run suppliers.tasks.no_such_task", r"no_such_task"),
    ("run tasks.backup", r"tasks"),
    (["run", HEALTH_TASK, "--args", "[1"], r"(?i)--args.*JSON|JSON.*--args"),
    (["run", HEALTH_TASK, "--args", '{"a": 1}'], r"(?i)--args.*list|list.*--args"),
    (["run", HEALTH_TASK, "--kwargs", "[1]"], r"(?i)--kwargs.*(object|mapping|dictionary)"),
    (["run", HEALTH_TASK, "--kwargs", "{'a': 1}"], r"(?i)--kwargs.*JSON|JSON.*--kwargs"),
    (["run", HEALTH_TASK, "--args", "[1, 2, 3]"], r"argument"),
    (f"run {HEALTH_TASK} --queue nobodys", r"nobodys"),
    (f"run {HEALTH_TASK} --timeout 0", r"(?i)timeout"),
    ("monitor --duration 0", r"(?i)duration"),
    ("monitor --duration -3", r"(?i)duration"),
    ("monitor --duration 5 --interval 0", r"(?i)interval"),
    ("monitor --duration soon", r"(?i)duration"),
    ("monitor --duration 5 --output-file /nowhere/at/all.json", r"/nowhere/at/all\.json"),
    ("monitor --duration 5 --output-file /proc/version", r"/proc/version"),
    ("monitor --duration 5 --output-file /etc", r"/etc"),
    ("monitor --duration 5 --workers suppliers,nobody", r"nobody"),
    ("purge nobodys --yes", r"nobodys"),
    ("restart nobody", r"nobody"),
    ("start suppliers,analytics", r"suppliers"),
    ("schedule no-such-verb", r"no-such-verb"),
    ("no-such-command", r"no-such-command"),
    ("status --format yaml", r"yaml"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES)
def test_mistakes_are_refused(market: Fleet, words: str | list[str], says: str) -> None:
    done = fleets.call(market, market.one("celery_workers"), words)
    assert done.status == USAGE, done.text
    assert re.search(says, done.errors), done.text
    assert "Traceback (most recent call last)" not in done.text
    assert done.seconds <= BOUND + PYTHON


def test_task_that_fails_is_a_bad_state(market: Fleet) -> None:
    """The task itself reports an impossible date as its error."""
    words = ["run", "cleanup_system_logs", "--kwargs", '{"days": 0}']
    done = fleets.call(market, market.one("celery_producers"), words)
    assert done.status == BAD, done.text
    assert "days" in done.text
    assert "ValueError" in done.text


def test_several_applications_ask_for_a_name(market: Fleet) -> None:
    done = market.execute(market.one("celery_workers"), ["celery-fleet", "status"])
    assert done.status == USAGE
    assert [name for name in fleets.NAMES if name not in done.errors] == []
    assert "--app" in done.errors


# --- without its broker ----------------------------------------------------------------------------

# The command and its exit status: commands that need the broker, and others.
WITHOUT: list[tuple[str, int]] = [
    ("status", NOBODY),
    ("status --detailed", NOBODY),
    ("tasks", OK),
    (f"run {HEALTH_TASK}", NOBODY),
    (f"run {HEALTH_TASK} --async", NOBODY),
    ("run no_such_task", USAGE),
    ("monitor --duration 4 --interval 2", NOBODY),
    ("active", NOBODY),
    ("scheduled", NOBODY),
    ("reserved", NOBODY),
    ("registered", NOBODY),
    ("stats", NOBODY),
    ("conf", NOBODY),
    ("inspect ping", NOBODY),
    ("purge analytics --yes", NOBODY),
    ("revoke 6f1e0c5a-0000-4000-8000-000000000000", NOBODY),
    ("schedule", OK),
]


def wrong(fleet: Fleet, words: str, status: int, bound: float) -> list[str]:
    """Return a list of what a command does wrong without a broker."""
    done = fleets.call(fleet, fleet.one("celery_beat"), words)
    found = []
    if done.status != status:
        found.append(f"status {done.status}, not {status}")
    if "Traceback (most recent call last)" in done.text:
        found.append("a traceback")
    port = str(fleet.of("redis")["redis_broker_port"])
    if status == NOBODY and not (re.search(r"(?i)broker", done.text) and port in done.text):
        found.append(f"does not name the broker with its port {port}")
    if done.seconds > bound + PYTHON:
        found.append(f"took {done.seconds:.1f} s")
    return [f"{words}: {what}: {done.text[-600:]}" for what in found]


def all_wrong(fleet: Fleet, bound: float) -> list[str]:
    jobs = [partial(wrong, fleet, words, status, bound) for words, status in WITHOUT]
    groups = [jobs[at : at + SIDE_BY_SIDE] for at in range(0, len(jobs), SIDE_BY_SIDE)]
    return [text for group in groups for texts in means.at_once(*group) for text in texts]


@pytest.fixture
def undisturbed(market: Fleet, processing: Fleet) -> Iterator[None]:
    """Check that the other application does not notice, and that this one is well again afterwards."""
    look = fleets.Look.at(processing)
    yield
    look.unchanged()
    wait_for(
        "all is well again",
        120,
        lambda: fleets.call(market, market.one("celery_beat"), "status").status == OK,
        pause=3,
    )


@pytest.mark.stage(5)
@pytest.mark.usefixtures("undisturbed")
def test_commands_with_a_broker_that_is_down_end_in_time(market: Fleet) -> None:
    host, unit = means.broker(market)
    with fleets.stopped(market, host, unit):
        assert all_wrong(market, BOUND) == []


@pytest.mark.stage(5)
@pytest.mark.usefixtures("undisturbed")
def test_commands_with_a_broker_that_hangs_end_in_time(market: Fleet) -> None:
    """The broker accepts the connection and never answers. One deadline covers the whole command."""
    with means.hanging(market):
        assert all_wrong(market, BOUND) == []


@pytest.mark.stage(5)
@pytest.mark.usefixtures("undisturbed")
def test_status_while_the_broker_is_down_still_shows_the_units(market: Fleet) -> None:
    host, unit = means.broker(market)
    with fleets.stopped(market, host, unit):
        done = fleets.call(market, market.one("celery_workers"), "--format json status")
    found: dict[str, Any] = json.loads(done.output)
    assert (done.status, found["ok"]) == (NOBODY, False)
    names = {one["name"] for one in found["units"]}
    assert f"{fleets.app_of(market)}-worker@suppliers.service" in names
