from __future__ import annotations

from pathlib import Path

import pytest

from scripts import failures

# A record as pytest writes it: a failing test, one in a class, one whose fixture fails, a file that can't be collected.
RECORD = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.unit.test_shop" name="test_sells" file="tests/unit/test_shop.py" line="3" />
<testcase classname="tests.unit.test_shop" name="test_buys" file="tests/unit/test_shop.py" line="4">
  <failure message="AssertionError: these differ&#10;assert 1 == 2">def test_buys(): ...</failure></testcase>
<testcase classname="tests.unit.test_shop.TestDoors" name="test_opens[a b]" file="tests/unit/test_shop.py" line="5">
  <failure message="Failed: DID NOT RAISE ValueError">...</failure></testcase>
<testcase classname="tests.unit.test_shop" name="test_closes" file="tests/unit/test_shop.py" line="6">
  <error message="failed on setup with &quot;RuntimeError: no key&quot;">    def key():
E       RuntimeError: no key

tests/unit/test_shop.py:9: RuntimeError</error></testcase>
<testcase classname="" name="tests.unit.test_gone" file="tests/unit/test_gone.py">
  <error message="collection failure">E   ModuleNotFoundError: No module named 'gone'</error></testcase>
</testsuite></testsuites>"""
LOG = """
2026-01-31 10:00:00,000 p=12 u=me n=ansible INFO| TASK [pki : Ask for what may be missing] ***************
2026-01-31 10:00:00,100 p=12 u=me n=ansible INFO| fatal: [redis1]: FAILED! =>
    msg: this one was rescued

2026-01-31 10:00:01,000 p=12 u=me n=ansible INFO| TASK [celery_worker : Settle workers] ***************
2026-01-31 10:00:01,100 p=12 u=me n=ansible ERROR| [ERROR]: Task failed: the worker does not start

2026-01-31 10:00:01,200 p=12 u=me n=ansible INFO| fatal: [worker1]: FAILED! =>
    changed: false
    msg: |-
        The worker does not start.
        Its journal follows.

2026-01-31 10:00:01,300 p=12 u=me n=ansible INFO| fatal: [worker2]: UNREACHABLE! =>
    changed: false
2026-01-31 10:00:02,000 p=13 u=me n=ansible INFO| TASK [Remove the hosts] ***************
2026-01-31 10:00:02,100 p=13 u=me n=ansible INFO| changed: [localhost]
"""


def test_each_failed_test_is_named_with_its_first_line_of_error() -> None:
    assert failures.of_tests(RECORD) == [
        "FAILED tests/unit/test_shop.py::test_buys — AssertionError: these differ",
        "FAILED tests/unit/test_shop.py::TestDoors::test_opens[a b] — Failed: DID NOT RAISE ValueError",
        "FAILED tests/unit/test_shop.py::test_closes — RuntimeError: no key",
        "FAILED tests/unit/test_gone.py — ModuleNotFoundError: No module named 'gone'",
    ]


def test_the_task_at_which_a_playbook_ended_is_named() -> None:
    assert failures.of_ansible(LOG) == [
        "FAILED celery_worker : Settle workers (worker1) — The worker does not start.",
        "FAILED celery_worker : Settle workers (worker2) — UNREACHABLE!",
    ]


@pytest.mark.parametrize(
    ("record", "log", "first"),
    [
        (RECORD, LOG, "FAILED tests/unit/test_shop.py::test_buys — AssertionError: these differ"),
        ("<testsuites/>", LOG, "FAILED celery_worker : Settle workers (worker1)"),
        ("<testsuites", LOG, "FAILED celery_worker : Settle workers (worker1)"),
        (None, None, "FAILED default — no failed test is on record"),
        ("<testsuites", "", "FAILED default — no failed test is on record"),
    ],
)
def test_a_failed_part_always_names_tests_or_a_playbook(
    tmp_path: Path, record: str | None, log: str | None, first: str
) -> None:
    for ending, text in (("xml", record), ("log", log)):
        if text is not None:
            (tmp_path / f"default.{ending}").write_text(text)
    assert failures.of_part("default", tmp_path)[0].startswith(first)


def test_the_lines_stay_few_and_short() -> None:
    line = failures.of_tests(RECORD.replace("these differ", "long " * 100))[0]
    assert len(line) == failures.WIDTH
    assert line.endswith("…")
    many = failures.shown([f"FAILED {number}" for number in range(25)])
    assert (len(many), many[-1]) == (failures.LINES, "… and 6 more, above")
    assert failures.shown(many) == many
