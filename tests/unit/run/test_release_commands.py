"""Release commands: which of them a host has to run, how one is run, and what is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.release_commands import (
    ReleaseCommandError,
    begun,
    carry_out,
    check_mark,
    due,
    failure,
    items,
    names,
    parse,
)

MIGRATE = {"name": "migrate", "argv": ["python", "manage.py", "migrate"], "timeout": 300}
STATIC = {"name": "static", "argv": ["python", "manage.py", "collectstatic"], "hosts": "all"}
DEMO = {"name": "demo", "argv": ["python", "manage.py", "loaddata"], "when": "once", "hosts": "one"}
RAW: list[dict[Any, Any]] = [MIGRATE, STATIC, DEMO]
HOSTS = ["worker1", "worker2", "control1"]


def found(here: str, fleet: Any = None, own: Any = None, hosts: list[str] = HOSTS) -> list[str]:
    return [command["name"] for command in due(RAW, fleet or {}, own or {}, here, hosts)]


def test_options_of_a_command_have_defaults() -> None:
    first, second, third = parse(RAW)
    assert (first.when, first.hosts, first.timeout) == ("release", "one", 300.0)
    assert (second.when, second.hosts, second.timeout) == ("release", "all", 600.0)
    assert (third.when, third.hosts) == ("once", "one")


def test_on_one_host_it_is_the_first_and_on_all_it_is_each() -> None:
    assert found("worker1") == ["migrate", "static", "demo"]
    assert found("worker2") == ["static"]
    assert found("redis1") == []
    # Under --limit the first of those.
    assert found("worker2", hosts=["worker2"]) == ["migrate", "static", "demo"]
    assert found("worker1", hosts=[]) == []


DONE = {"state": "done", "host": "worker1"}


def test_commands_that_were_done_are_not_run_again() -> None:
    fleet = {"release": {"migrate": DONE}, "once": {"demo": DONE}}
    assert found("worker1", fleet) == ["static"]
    assert found("worker1", fleet, {"release": {"static": DONE}}) == []
    # Each has its mark where it belongs.
    assert found("worker1", {"release": {"static": DONE, "demo": DONE}}) == [
        "migrate",
        "static",
        "demo",
    ]
    assert found("worker1", {}, {"release": {"migrate": DONE}}) == ["migrate", "static", "demo"]


def test_a_command_of_a_killed_run_continues_on_its_host() -> None:
    fleet = {"release": {"migrate": {"state": "started", "host": "control1"}}}
    assert found("control1", fleet) == ["migrate", "static"]
    assert found("worker1", fleet) == ["static", "demo"]
    # That host is not in this run: another one finds out.
    assert found("worker1", fleet, hosts=["worker1", "worker2"])[0] == "migrate"


def test_a_mark_that_cannot_be_read_is_looked_into() -> None:
    assert "migrate" in found("worker1", {"release": {"migrate": {"state": "unreadable"}}})


def test_all_hosts_have_the_same_list_in_the_inventorys_order() -> None:
    hostvars: dict[str, Mapping[str, Any]] = {
        host: {"__celery_release_own": {"marks": {"release": {"static": DONE}}}} for host in HOSTS
    }
    assert names(RAW, {}, hostvars, HOSTS) == ["migrate", "demo"]
    hostvars["control1"] = {"__celery_release_own": {"skipped": True}}
    assert names(RAW, {}, hostvars, HOSTS) == ["migrate", "static", "demo"]
    assert names([], {}, hostvars, HOSTS) == []


def test_a_release_that_the_fleet_holds_runs_only_what_it_has_begun() -> None:
    hostvars: dict[str, Mapping[str, Any]] = {host: {} for host in HOSTS}
    assert begun(RAW, {}, hostvars, HOSTS) == []
    fleet = {"release": {"migrate": {"state": "started", "host": "worker1"}}}
    assert begun(RAW, fleet, hostvars, HOSTS) == [MIGRATE]
    # A host that joins runs what the others have run.
    hostvars["worker1"] = {"__celery_release_own": {"marks": {"release": {"static": DONE}}}}
    assert begun(RAW, {**fleet, "once": {"demo": DONE}}, hostvars, HOSTS) == RAW


def test_the_plan_names_them() -> None:
    assert items(due(RAW, {}, {}, "worker1", HOSTS), "shop") == [
        {"subject": "shop", "text": "migrate (once per release)"},
        {"subject": "shop", "text": "static (once per release)"},
        {"subject": "shop", "text": "demo (once ever)"},
    ]


# -- the mark ---------------------------------------------------------------------------------------------

COMMAND = due(RAW, {}, {}, "worker1", HOSTS)[0]
STARTED = {"state": "started", "host": "worker1", "resumed": True, "path": "/m"}


@pytest.mark.parametrize("mark", [STARTED, {**STARTED, "state": "done", "host": "worker2"}])
def test_a_mark_of_this_host_and_one_that_says_done_are_no_hindrance(mark: Any) -> None:
    check_mark(mark, COMMAND, "worker1", "redis1")


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ({"host": "worker2"}, r"migrate was started on worker2, .* Run again with worker2 .* /m on redis1"),
        ({"state": "unreadable", "error": "half"}, r"its mark, /m on redis1, can't be read \(half\)\. Find out"),
    ],
)  # fmt: skip
def test_a_command_that_may_run_elsewhere_is_not_started(mark: dict[str, Any], words: str) -> None:
    with pytest.raises(ReleaseCommandError, match=words):
        check_mark(STARTED | mark, COMMAND, "worker1", "redis1")


# -- the run ----------------------------------------------------------------------------------------------

REQUEST = {
    "app": "shop",
    "name": "migrate",
    "release": "r1",
    "mark": "r1",
    "resumed": True,
    "argv": ["x"],
    "timeout": 300,
}
ENDED = {"state": "ended", "status": 0, "seconds": 1.0, "log": "/log", "tail": ""}


class Course:
    """A host that answers one after the other, and a clock."""

    def __init__(self, *answers: Mapping[str, Any] | str, seconds: float = 15.0) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.asked: list[str] = []
        self.now = 0.0
        self.seconds = seconds
        self.said: list[str] = []

    def ask(self, request: dict[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request["do"])
        self.now += self.seconds if request["do"] == "wait" else 0.0
        answer = next(self.answers)
        return {"state": answer} if isinstance(answer, str) else answer

    def run(self) -> Mapping[str, Any]:
        return carry_out(self.ask, REQUEST, clock=lambda: self.now, say=self.said.append)


def test_it_is_started_and_waited_for() -> None:
    course = Course("started", "running", ENDED)
    assert course.run() == ENDED
    assert course.asked == ["start", "wait", "wait"]
    assert course.said == []


def test_what_an_earlier_run_left_going_is_waited_for() -> None:
    course = Course("running", ENDED)
    assert course.run() == ENDED
    assert course.asked == ["start", "wait"]
    assert course.said == [
        "migrate was started by an earlier run and still runs: waiting for its end"
    ]


def test_what_has_succeeded_since_an_earlier_run_counts() -> None:
    course = Course(ENDED)
    assert (course.run(), course.asked) == (ENDED, ["start"])


def test_a_failure_is_its_end() -> None:
    assert Course("started", ENDED | {"status": 1}).run()["status"] == 1


def test_another_releases_command_is_waited_for_first() -> None:
    course = Course("other", "other", "gone", "started", ENDED)
    assert course.run() == ENDED
    assert course.asked == ["start", "wait", "wait", "start", "wait"]


def test_a_command_that_ends_without_a_result_is_retried() -> None:
    assert Course("started", "gone", "started", ENDED).run() == ENDED
    with pytest.raises(ReleaseCommandError, match="ended 3 times without a result") as caught:
        Course("started", "gone", "started", "gone", "started", "gone").run()
    assert "journalctl -u 'shop-command.migrate*'" in str(caught.value)


def test_a_command_that_can_not_be_started_or_does_not_end_is_an_error() -> None:
    with pytest.raises(
        ReleaseCommandError, match=r"can't be started \(systemd-run: no\). Fix that there"
    ):
        Course({"state": "refused", "error": "systemd-run: no"}).run()
    with pytest.raises(ReleaseCommandError, match="has not ended 420 s after its start"):
        Course("started", *["running"] * 50).run()


# -- what is told -----------------------------------------------------------------------------------------


def told(status: int, tail: str = "") -> str:
    ended = {"status": status, "seconds": 3.2, "log": "/var/log/x.log", "tail": tail}
    return failure("worker1", COMMAND, "r1", ended)


def test_a_failure_names_host_command_status_last_lines_and_what_to_do() -> None:
    assert told(3, "line 1\nline 2").splitlines() == [
        "worker1: migrate of release r1 ended with exit status 3, after 3.2 s.",
        "Its last lines:",
        "  line 1",
        "  line 2",
        "Its whole output is on worker1, readable by root: /var/log/x.log",
        "Nothing of the new release was started; the previous one keeps running.",
        "Fix the cause and run the same playbook again: it continues with migrate.",
    ]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            124,
            "took longer than its timeout of 300 s and was ended (celery_release_commands, timeout)",
        ),
        (125, "could not be started (exit status 125)"),
        (126, "can't be run (exit status 126)"),
        (127, "is a program that does not exist in the release or on the host (exit status 127)"),
    ],
)
def test_a_status_that_is_not_the_programs_own_is_told_in_words(status: int, words: str) -> None:
    assert told(status).splitlines()[0].startswith(f"worker1: migrate of release r1 {words}")
    assert "Its last lines" not in told(status)
