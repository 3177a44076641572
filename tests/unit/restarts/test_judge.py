from __future__ import annotations

from typing import Any

import pytest

from scripts.restarts import judge
from scripts.restarts.record import LoadRecord
from tests.unit.restarts.records import mark, record, run, send, worker


def fates(found: list[judge.Fate]) -> dict[str, str]:
    return {fate.task: fate.cause for fate in found}


# --- lost ------------------------------------------------------------------------------------------


def test_a_task_that_ran_to_its_end_is_neither_lost_nor_doubled() -> None:
    found = record(sends=[send("a")], runs=[run("a", 100.1, 101.1)])
    assert judge.lost(found) == []
    assert judge.doubled(found) == []


def test_a_task_that_never_began_is_lost() -> None:
    found = record(sends=[send("a", ready=130.0)])
    assert judge.lost(found) == [judge.Fate("a", 130.0, "never begun")]


def test_a_task_whose_sender_got_an_error_is_not_lost() -> None:
    assert judge.lost(record(sends=[send("a", refused=True)])) == []


def test_a_task_that_was_cut_off_is_lost_by_its_workers_stop() -> None:
    found = record(
        sends=[send("a", seconds=20.0)],
        runs=[run("a", 100.0, None)],
        workers=[worker("fast@w2", "leaving", 104.0), worker("fast@w1", "leaving", 105.0)],
    )
    assert judge.lost(found) == [
        judge.Fate("a", 105.0, "cut off while it ran: its worker was stopped")
    ]


def test_a_stop_after_the_task_is_no_cause() -> None:
    found = record(
        sends=[send("a", seconds=20.0)],
        runs=[run("a", 100.0, None)],
        workers=[worker("fast@w1", "leaving", 122.0)],
    )
    assert fates(judge.lost(found)) == {"a": "cut off while it ran: unexplained"}


def test_a_mark_of_its_host_is_the_cause_and_one_of_another_is_not() -> None:
    rows = {"sends": [send("a", seconds=20.0)], "runs": [run("a", 100.0, None)]}
    lost_host = mark(110.0, "its host was lost", host="w1", fatal=True)
    assert fates(judge.lost(record(**rows, marks=[lost_host]))) == {
        "a": "cut off while it ran: its host was lost"
    }
    for other in ({"host": "w2"}, {"fatal": False}, {"at": 99 - judge.SLACK}, {"at": 130.0}):
        unknown = record(**rows, marks=[{**lost_host, **other}])
        assert fates(judge.lost(unknown)) == {"a": "cut off while it ran: unexplained"}


def test_a_retry_that_never_came_is_lost() -> None:
    first = run("a", 100.0, 101.0, retry_at=103.0)
    found = record(sends=[send("a", attempts=2)], runs=[first])
    assert judge.lost(found) == [judge.Fate("a", 103.0, "its retry never began")]
    done = record(sends=[send("a", attempts=2)], runs=[first, run("a", 103, 104, attempt=1)])
    assert judge.lost(done) == []


def test_a_task_that_was_sent_as_the_broker_went_down_is_lost_by_it() -> None:
    found = record(sends=[send("a")], marks=[mark(101.0, "Redis was restarted")])
    assert fates(judge.lost(found)) == {"a": "never begun, as Redis was restarted"}


def test_a_task_that_was_sent_as_a_host_went_down_is_lost_by_it() -> None:
    gone = mark(101.0, "its host was lost", host="w1", fatal=True)
    found = record(sends=[send("a")], marks=[gone])
    assert fates(judge.lost(found)) == {"a": "never begun, as its host was lost"}


# --- doubled ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "second", "cause"),
    [
        (None, 130.0, "run again after it was cut off: its worker was stopped"),
        (101.0, 130.0, "run again though it had ended"),
        (101.0, 100.5, "run twice at once"),
    ],
)
def test_repeats_have_a_cause(ended: float | None, second: float, cause: str) -> None:
    found = record(
        sends=[send("a")],
        runs=[run("a", second, second + 1), run("a", 100.0, ended)],
        workers=[worker("fast@w1", "leaving", 100.5)],
    )
    assert judge.doubled(found) == [judge.Fate("a", second, cause)]
    assert judge.lost(found) == []


def held_up(task: str, attempt: int = 0, **changed: Any) -> dict[str, Any]:
    return {"task": task, "attempt": attempt, "node": "", "at": 101.0, **changed}


def test_a_sender_without_an_answer_may_send_two_messages() -> None:
    found = record(
        sends=[send("a")],
        runs=[run("a", 100.0, 101.0), run("a", 100.5, 101.5, message="n")],
        marks=[mark(99.5, "Redis was restarted")],
        held_up=[held_up("a")],
    )
    assert fates(judge.doubled(found)) == {"a": "sent twice, as Redis was restarted"}


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([held_up("a")], "sent twice, as Redis was killed"),
        ([held_up("a", attempt=1)], "run twice at once, as Redis was killed"),
        ([held_up("b")], "run twice at once, as Redis was killed"),
        ([], "run twice at once, as Redis was killed"),
    ],
)
def test_only_a_sender_that_waited_has_sent_twice(rows: list[dict[str, Any]], cause: str) -> None:
    found = record(
        sends=[send("a"), send("b", sent=103.2)],
        runs=[
            *(run("a", 105.00, 105.10, message="n"), run("a", 105.02, 105.12)),
            run("b", 105.0, 106.0),
        ],
        marks=[mark(99.5, "Redis was killed")],
        held_up=rows,
    )
    assert fates(judge.doubled(found)) == {"a": cause}


def test_one_message_that_ran_twice_is_not_attributed_to_the_sender() -> None:
    runs = [run("a", 105.0, 105.1), run("a", 105.3, 105.4)]
    found = record(sends=[send("a")], runs=runs, held_up=[held_up("a")])
    assert fates(judge.doubled(found)) == {"a": "run again though it had ended"}


def test_a_worker_that_waited_may_have_sent_a_retry_twice() -> None:
    runs = [
        run("a", 100.0, 100.5, retry_at=102.5),
        *(run("a", 102.6, 103.0, attempt=1), run("a", 102.7, 103.1, attempt=1, message="n")),
    ]
    rows = {"sends": [send("a", attempts=2)], "runs": runs}
    assert fates(judge.doubled(record(**rows, held_up=[held_up("a", attempt=1)]))) == {
        "a": "sent twice"
    }
    assert fates(judge.doubled(record(**rows, held_up=[held_up("a")]))) == {
        "a": "run twice at once"
    }


def test_a_retry_that_was_sent_twice_is_attributed_to_the_fault_of_its_sender() -> None:
    """The time is that of the retry, not that of the task."""
    runs = [
        run("a", 148.0, 148.5, retry_at=150.5),
        run("a", 151.0, 151.5, attempt=1),
        run("a", 161.0, 161.5, attempt=1, node="fast@w2", message="n"),
    ]
    rows = {
        "sends": [send("a", attempts=2)],
        "runs": runs,
        "held_up": [held_up("a", attempt=1, node="fast@w1", at=160.0)],
    }
    late = mark(145.0, "its replies came late", host="w1", until=159.0)
    assert fates(judge.doubled(record(**rows, marks=[late]))) == {
        "a": "sent twice, as its replies came late"
    }
    for other in ({"host": "w3"}, {"at": 100.0, "until": 105.0}):
        found = record(**rows, marks=[{**late, **other}])
        assert fates(judge.doubled(found)) == {"a": "sent twice"}


def test_a_refused_task_may_be_sent_twice_before_it_is_refused() -> None:
    runs = [run("a", 100.0, 101.0), run("a", 103.0, 104.0, message="n")]
    found = record(sends=[send("a", refused=True)], runs=runs)
    assert fates(judge.doubled(found)) == {"a": "sent twice"}


@pytest.mark.parametrize(
    ("kind", "distance"), [("chain", 1), ("relayed", 1), ("gather", 1), ("gather", 4)]
)
def test_a_task_that_runs_again_sends_its_follow_ups_again(kind: str, distance: int) -> None:
    """This does not hold if it did not run again, or if one message of the follow-up ran twice."""
    sender, other = f"r.{10 - distance:06d}", "r.000010"
    cut, again = run(sender, 100.0, 101.0), run(sender, 103.0, 104.0)
    first, second = run(other, 101.5, 102.0), run(other, 104.5, 105.0, message="n")
    sends = [send(sender), send(other, kind=kind, ready=None)]

    def cause(*runs: dict[str, Any], **rows: Any) -> str:
        return fates(judge.doubled(record(sends=sends, runs=list(runs), **rows)))[other]

    assert cause(cut, again, first, second) == judge.SENT_BY_RERUN
    slow = {"held_up": [held_up(other)]}
    assert cause(cut, again, first, second, **slow) == judge.SENT_BY_RERUN
    frozen = {**slow, "marks": [mark(99.5, "Redis was frozen")]}
    assert cause(cut, again, first, second, **frozen) == "sent twice, as Redis was frozen"
    assert cause(again, first, second) == "run again though it had ended"
    assert cause(cut, again, first, {**second, "message": "m"}) == "run again though it had ended"


def test_a_retry_is_sent_again_by_an_attempt_that_runs_again() -> None:
    runs = [
        *(run("a", 100.0, 100.5, retry_at=102.5), run("a", 101.0, 101.5, retry_at=103.5)),
        *(run("a", 102.6, 103.0, attempt=1), run("a", 103.6, 104.0, attempt=1, message="n")),
    ]
    found = judge.doubled(record(sends=[send("a", attempts=2)], runs=runs))
    assert [fate.cause for fate in found] == ["run again though it had ended", judge.SENT_BY_RERUN]


def test_a_fault_of_a_worker_does_not_affect_senders() -> None:
    killed = mark(99.5, "its worker was killed", host="w1", node="fast@w1", fatal=True)
    found = record(
        sends=[send("a")],
        runs=[run("a", 100.0, 101.0), run("a", 103.0, 104.0, message="n")],
        marks=[killed],
        held_up=[held_up("a")],
    )
    assert fates(judge.doubled(found)) == {"a": "sent twice"}


@pytest.mark.parametrize(
    ("changed", "is_cause"),
    [
        ({"node": "fast@w1"}, True),
        ({"node": "slow@w1"}, False),
        ({"node": "fast@w1", "pid": 7}, True),
        ({"node": "fast@w1", "pid": 8}, False),
        ({}, True),
        ({"host": "w2"}, False),
    ],
)
def test_a_mark_only_excuses_tasks_in_its_own_place(
    changed: dict[str, Any], is_cause: bool
) -> None:
    """A mark of a worker explains its worker, that of a process its process, that of a host everything on its host."""
    killed = mark(101.5, "it was killed", **{"host": "w1", "fatal": True, **changed})
    again = run("a", 102.0, 103.0)
    rows = {"sends": [send("a", seconds=5.0)], "marks": [killed]}

    ended = record(**rows, runs=[run("a", 100.0, 101.0), again])
    words = ", as it was killed" if is_cause else ""
    assert fates(judge.doubled(ended)) == {"a": f"run again though it had ended{words}"}

    cut = record(**rows, runs=[run("a", 100.0, None), again])
    words = "it was killed" if is_cause else "unexplained"
    assert fates(judge.doubled(cut)) == {"a": f"run again after it was cut off: {words}"}


@pytest.mark.parametrize(
    ("at", "is_cause"), [(98.9, False), (99.1, False), (100.1, True), (102.9, True), (103.1, False)]
)
def test_a_kill_excuses_tasks_that_ended_just_before_it(at: float, is_cause: bool) -> None:
    """Tasks that end later belong to another process, and those that ended long before were acknowledged."""
    killed = mark(at, "its worker was killed", host="w1", node="fast@w1", fatal=True)
    again = run("a", 104.0, 105.0)
    found = record(sends=[send("a")], runs=[run("a", 100.0, 101.0), again], marks=[killed])
    words = ", as its worker was killed" if is_cause else ""
    assert fates(judge.doubled(found)) == {"a": f"run again though it had ended{words}"}


def test_a_lasting_fault_is_a_cause_until_it_ends() -> None:
    runs = [run("a", 100.0, 140.0), run("a", 130.0, 170.0)]
    rows = {"sends": [send("a", seconds=40.0)], "runs": runs}
    cut = mark(105.0, "its host was cut off", host="w1", until=135.0)
    assert fates(judge.doubled(record(**rows, marks=[cut]))) == {
        "a": "run twice at once, as its host was cut off"
    }
    short = {**cut, "until": 106.0}
    assert fates(judge.doubled(record(**rows, marks=[short]))) == {"a": "run twice at once"}


def test_a_host_that_is_cut_off_may_run_a_task_after_another_host() -> None:
    late = run("a", 118.0, 119.0, node="fast@w2")
    rows = {"sends": [send("a")], "runs": [run("a", 116.0, 117.0), late]}
    for host, words in (("w2", ", as its host was cut off"), ("w3", "")):
        cut = mark(100.0, "its host was cut off", host=host, until=130.0)
        found = record(**rows, marks=[cut])
        assert fates(judge.doubled(found)) == {"a": f"run again though it had ended{words}"}


def test_each_repeat_needs_its_own_cause() -> None:
    """A kill explains the first; nothing explains the second."""
    runs = [
        run("a", 100.0, None),
        run("a", 101.0, 102.0, node="fast@w2"),
        run("a", 103.0, 104.0, node="fast@w3"),
    ]
    killed = mark(100.5, "its worker was killed", host="w1", node="fast@w1", fatal=True)
    found = judge.doubled(record(sends=[send("a")], runs=runs, marks=[killed]))
    assert [fate.cause for fate in found] == [
        "run again after it was cut off: its worker was killed",
        "run again though it had ended",
    ]


def test_a_lost_acknowledgement_is_attributed_to_its_own_host() -> None:
    again = run("a", 130.0, 131.0)
    rows = {"sends": [send("a")], "runs": [run("a", 100.0, 101.0), again]}
    for host, words in (("w1", ", as its host was lost"), ("w2", "")):
        gone = mark(101.2, "its host was lost", host=host, fatal=True)
        found = record(**rows, marks=[gone])
        assert fates(judge.doubled(found)) == {"a": f"run again though it had ended{words}"}


def test_a_task_whose_process_died_may_be_retried_as_the_next_attempt() -> None:
    runs = [run("a", 100.0, None), run("a", 106.0, 107.0, attempt=1)]
    found = record(
        sends=[send("a", seconds=8.0)], runs=runs, workers=[worker("fast@w1", "leaving", 105.0)]
    )
    assert judge.lost(found) == []
    assert fates(judge.doubled(found)) == {
        "a": "run again after it was cut off: its worker was stopped"
    }


def test_a_retry_is_not_doubled() -> None:
    runs = [run("a", 100.0, 101.0, retry_at=103.0), run("a", 103.0, 104.0, attempt=1)]
    assert judge.doubled(record(sends=[send("a", attempts=2)], runs=runs)) == []


def test_a_refused_task_that_ran_twice_is_doubled() -> None:
    runs = [run("a", 100.0, 101.0), run("a", 103.0, 104.0)]
    assert len(judge.doubled(record(sends=[send("a", refused=True)], runs=runs))) == 1


def test_causes_are_counted_most_first() -> None:
    found = [judge.Fate("a", 0, "x"), judge.Fate("b", 0, "y"), judge.Fate("c", 0, "y")]
    assert list(judge.causes(found).items()) == [("y", 2), ("x", 1)]


# --- at most once -----------------------------------------------------------------------------------


def test_an_at_most_once_task_may_be_dropped_and_is_not_lost() -> None:
    found = record(
        sends=[send("a", queue="once"), send("b")],
        runs=[run("a", 100.0, None)],
        at_most_once=["once"],
    )
    assert fates(judge.dropped(found)) == {"a": "cut off while it ran: unexplained"}
    assert fates(judge.lost(found)) == {"b": "never begun"}


def test_nothing_excuses_a_repeat_of_an_at_most_once_task() -> None:
    killed = mark(100.5, "its worker was killed", host="w1", node="fast@w1", fatal=True)
    rows = {
        "sends": [send("a", queue="once")],
        "runs": [run("a", 100.0, None), run("a", 102.0, 103.0)],
        "marks": [killed],
        "at_most_once": ["once"],
    }
    assert fates(judge.doubled(record(**rows))) == {"a": judge.AT_MOST_ONCE}
    twice = {**rows, "runs": [run("a", 100.0, 101.0), run("a", 100.2, 101.2, message="n")]}
    assert fates(judge.doubled(record(**twice, held_up=[held_up("a")]))) == {"a": "sent twice"}


# --- revoked ---------------------------------------------------------------------------------------


def revoked(*runs: dict[str, Any], left: bool, **rows: Any) -> LoadRecord:
    """Return a task and the next one, which revokes it and ended at 102."""
    sends = [send("r.000004", kind="revoked", ready=115.0), send("r.000005", kind="revoke")]
    leave = [{"task": "r.000004", "node": "fast@w1", "at": 115.0}] if left else []
    runs = (run("r.000005", 101.0, 102.0), *runs)
    return record(sends=sends, runs=list(runs), revoked=leave, **rows)


def test_a_revoked_task_that_a_worker_left_is_done() -> None:
    found = revoked(left=True)
    assert (judge.lost(found), judge.revoked(found), judge.unheeded(found)) == ([], 1, [])


def test_a_revoked_task_that_no_worker_ever_saw_is_lost() -> None:
    found = revoked(left=False)
    assert fates(judge.lost(found)) == {"r.000004": "never begun"}
    assert judge.revoked(found) == 0


def test_a_revoked_task_that_began_is_reported() -> None:
    found = revoked(run("r.000004", 115.0, 116.0), left=False)
    assert judge.lost(found) == []
    assert fates(judge.unheeded(found)) == {"r.000004": "it began though it was revoked"}


def test_a_task_that_began_before_it_was_revoked_does_not_count_as_revoked() -> None:
    found = revoked(run("r.000004", 101.5, 116.0), left=False)
    assert judge.unheeded(found) == []


def test_a_starting_worker_may_miss_a_revoke() -> None:
    again = run("r.000004", 115.0, 116.0)
    for node, at, words in (
        ("fast@w1", 104.0, ", as its worker started"),
        ("fast@w1", 99.0, ""),
        ("fast@w1", 110.0, ""),
        ("fast@w2", 104.0, ""),
    ):
        found = revoked(again, left=False, workers=[worker(node, "ready", at)])
        assert fates(judge.unheeded(found)) == {
            "r.000004": f"it began though it was revoked{words}"
        }
