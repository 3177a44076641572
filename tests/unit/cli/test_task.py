"""What `celery-fleet task` shows of the runs that the history has."""

from __future__ import annotations

from typing import Any

import pytest

from celery_fleet.cli.commands import task

SENT = 1_700_000_000.0


def run(**more: Any) -> dict[str, Any]:
    return {
        "id": "7-7",
        "name": "shop.add",
        "queue": "mail",
        "origin": "gen7@web1",
        "sent": SENT,
        "eta": None,
        "received": SENT + 0.5,
        "started": SENT + 1,
        "ended": SENT + 3,
        "state": "succeeded",
        "detail": 2.0,
        "node": "mail@worker1",
        "release": "r1",
        "source": "history",
        **more,
    }


def shown(*runs: dict[str, Any]) -> list[str]:
    return [" ".join(row[1:]).strip() for row in task.table(list(task.rows(runs)))]


def test_the_life_of_a_task() -> None:
    found = task.table(list(task.rows([run()])))
    assert [row[0] for row in found] == [
        "2023-11-14 22:13:20.000",
        "2023-11-14 22:13:20.500",
        "2023-11-14 22:13:21.000",
        "2023-11-14 22:13:23.000",
    ]
    assert shown(run()) == [
        "gen7@web1 was sent",
        "0.5 s mail@worker1 was received from the queue mail",
        "0.5 s mail@worker1 was started",
        "2.0 s mail@worker1 succeeded",
    ]


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({"state": "failed", "detail": "KeyError"}, "2.0 s mail@worker1 failed with KeyError"),
        ({"state": "revoked"}, "2.0 s mail@worker1 was revoked"),
        ({"state": "started", "ended": None}, "mail@worker1 is running, or the worker died"),
        (
            {"state": "received", "started": None, "ended": None},
            "mail@worker1 waits there to be started, or the worker died",
        ),
    ],
)
def test_the_last_line_says_how_the_run_ended(more: dict[str, Any], end: str) -> None:
    assert shown(run(**more))[-1] == end


def test_a_worker_that_died_and_its_successor() -> None:
    first = run(state="started", ended=None)
    second = run(node="mail@worker2", received=SENT + 10, started=SENT + 10, ended=SENT + 12)
    assert shown(first, second)[2:] == [
        "0.5 s mail@worker1 was started",
        "mail@worker1 has no recorded end: the worker died, or the history has a gap",
        "9.0 s mail@worker2 was received from the queue mail",
        "0.0 s mail@worker2 was started",
        "2.0 s mail@worker2 succeeded",
    ]


def test_a_retry_is_sent_again() -> None:
    again = run(sent=SENT + 3, eta=SENT + 60, received=SENT + 4, origin="gen9@worker1")
    assert shown(run(state="retried"), again)[3:5] == [
        "2.0 s mail@worker1 ended with a retry",
        "0.0 s gen9@worker1 was sent, not to start before 2023-11-14 22:14:20.000",
    ]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"since": None, "whole": True}, "there is no history"),
        (
            {"since": SENT, "whole": False},
            "not found back to 2023-11-14 22:13:20.000 UTC; --timeout",
        ),
        (
            {"since": SENT, "whole": True},
            "no worker has received it since 2023-11-14 22:13:20.000 UTC",
        ),
    ],
)
def test_the_message_for_an_unknown_task(found: dict[str, Any], words: str) -> None:
    assert task.missing(found).startswith(words)
