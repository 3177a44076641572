"""The table of faults of a replicated Redis, from kept runs."""

from __future__ import annotations

from scripts.restarts import failover_report as report
from scripts.restarts.delivery_report import Recovery, Result
from scripts.restarts.report import between

from .runs import summary


def test_each_case_is_a_row_and_what_is_not_promised_stands_apart() -> None:
    found = {(name, "fleet"): Result(summary(name)) for name in (*report.CASES, *report.APART)}
    killed = summary("primaries killed, 1", faults=12, doubled=2, doubled_causes={"sent twice": 2})
    found["primaries killed, 1", "fleet"] = Result(killed, Recovery(12, 7.25, 9.5))
    text = report.figures(found)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    by_title = {row[0]: row[1:] for row in rows}
    assert {*report.CASES.values(), *report.APART.values()} <= by_title.keys()
    row = by_title[report.CASES["primaries killed, 1"]]
    assert row[:5] == ["12", "5,000", "0", "**0**", "-"]
    assert row[5:7] == ["**2**", "2 sent twice"]
    assert row[7:] == ["7.25 s", "9.50 s"]
    apart = text.index("not promised")
    assert text.index(report.APART["cut off, with both variables 0"]) > apart


def test_the_page_has_a_place_for_it() -> None:
    assert "the figures" in between(report.PAGE.read_text(), "the figures", report.PAGE)
