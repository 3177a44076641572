from __future__ import annotations

import json

import pytest

from celery_fleet.common import pauses, text
from celery_fleet.common.pauses import Pause


@pytest.mark.parametrize(
    ("target", "node", "queue", "stops"),
    [
        ("all", "mail@worker1", "mail", True),
        ("host:worker1", "mail@worker1", "mail", True),
        ("host:worker1", "mail@worker2", "mail", False),
        ("worker:mail", "mail@worker2", "urgent", True),
        ("worker:mail", "mail.next@worker2", "urgent", True),
        ("worker:mail", "mails@worker2", "mail", False),
        ("worker:mail@worker1", "mail@worker1", "mail", True),
        ("worker:mail@worker1", "mail.next@worker1", "mail", True),
        ("worker:mail@worker1", "mail@worker2", "mail", False),
        ("queue:mail", "other@worker1", "mail", True),
        ("queue:mail", "mail@worker1", "urgent", False),
        ("queue:a:b", "mail@worker1", "a:b", True),
        ("all:mail", "mail@worker1", "mail", False),
        ("", "mail@worker1", "", False),
    ],
)
def test_what_a_pause_stops(target: str, node: str, queue: str, stops: bool) -> None:
    assert Pause(target).stops(node, queue) is stops


def test_a_hash_with_damaged_entries_is_read() -> None:
    late = Pause("queue:mail", 20.0, "ana", "why")
    early = Pause("all", 10.0, "bo")
    damaged = {
        b"host:h": b"{",
        b"worker:w": b"[]",
        b"queue:\xff": b'{"since": "x"}',
        b"what": b"{}",
    }
    entries = {field.encode(): value.encode() for field, value in (late.entry, early.entry)}
    found = pauses.parse(entries | damaged)
    assert found[-2:] == [early, late]
    assert {pause.target for pause in found[:-2]} == {"host:h", "worker:w", "queue:\ufffd"}
    assert json.loads(late.entry[1]) == {"since": 20.0, "by": "ana", "why": "why"}


def test_pauses_of_several_people_do_not_replace_each_other() -> None:
    every = [
        Pause("host:h", 1.0, "ana", "disk"),
        Pause("host:h", 2.0, "bo", "disk"),
        Pause("host:h", 3.0, "bo", "memory"),
    ]
    assert pauses.parse(dict(one.entry for one in every)) == every


def test_a_reason_is_one_short_line() -> None:
    _, value = Pause("all", 1.0, "a\nb", "x\nWATCHDOG=trigger\x1b[2J" + "y" * 300).entry
    (found,) = pauses.parse({"all": value})
    assert found.by == "a b"
    assert found.why.startswith("x WATCHDOG=trigger[2Jyy")
    assert len(found.why) == text.LONGEST


@pytest.mark.parametrize(
    "value",
    [
        "[" * 100_000,
        json.dumps({"since": 1, "by": "x", "why": "y" * 5000}),
        '{"since": Infinity, "by": "", "why": ""}',
        '{"since": NaN, "by": "", "why": ""}',
        '{"since": -1e11, "by": "", "why": ""}',
        '{"since": 1e18, "by": "", "why": ""}',
    ],
)
def test_a_damaged_value_still_pauses(value: str) -> None:
    assert pauses.parse({"queue:mail": value}) == [Pause("queue:mail")]


def test_a_name_is_shown_without_control_characters() -> None:
    assert Pause("queue:a\x1b[2J\nb").words == "queue a[2J b"


def test_the_oldest_pause_counts() -> None:
    every = pauses.parse(dict([Pause("queue:mail", 2, "b").entry, Pause("all", 1, "a").entry]))
    found = pauses.paused(every, "mail@h", ["mail", "urgent"])
    assert {queue: pause.by for queue, pause in found.items()} == {"mail": "a", "urgent": "a"}


@pytest.mark.parametrize(
    ("pause", "words", "reason"),
    [
        (Pause("all"), "every worker", ""),
        (Pause("queue:mail", by="ana"), "queue mail", "by ana"),
        (Pause("host:h", why="disk"), "host h", "disk"),
        (Pause("worker:w@h", by="ana", why="disk"), "worker w@h", "by ana: disk"),
    ],
)
def test_a_pause_is_described_in_one_line(pause: Pause, words: str, reason: str) -> None:
    assert (pause.words, pause.reason) == (words, reason)
