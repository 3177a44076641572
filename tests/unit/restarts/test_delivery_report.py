"""The table in delivery-proof.md, made from kept runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from scripts.restarts import delivery_report as report
from scripts.restarts.delivery_report import Recovery, Result
from scripts.restarts.report import ReportError
from scripts.restarts.summary import RestartSummary

from .runs import summary


def keep(directory: Path, one: RestartSummary, recovery: dict[str, float] | None = None) -> None:
    stem = f"{one.way}-{one.name}".replace(" ", "-")
    one.write(directory / f"{stem}.summary.json")
    if recovery is not None:
        (directory / f"{stem}.recovery.json").write_text(json.dumps(recovery))


def cells(text: str, title: str) -> list[list[str]]:
    """Return the cells of a case's rows, without its title."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return [line[1:] for line in lines if line[0] == title]


def test_kept_runs_are_read_with_their_recoveries(tmp_path: Path) -> None:
    keep(tmp_path, summary("workers killed"), {"count": 180, "p50": 0.35, "max": 1.2})
    keep(tmp_path, summary("workers killed", "stock"))
    (tmp_path / "about.json").write_text("{}")
    found = report.load(tmp_path)
    assert found["workers killed", "fleet"].recovery == Recovery(180, 0.35, 1.2)
    assert found["workers killed", "stock"].recovery is None
    assert len(found) == 2


def test_each_case_is_a_row_with_causes_and_recoveries() -> None:
    cause = "run again after it was cut off: its worker was killed"
    doubled = summary("workers killed", faults=200, doubled=7, doubled_causes={cause: 7})
    stock = summary("workers killed", "stock", lost=51, done=4949, lost_causes={"never begun": 51})
    found = {
        ("workers killed", "stock"): Result(stock),
        ("workers killed", "fleet"): Result(doubled, Recovery(180, 0.35, 1.2)),
    }
    text = report.figures(found, {"broker": "Redis 7.0.15"})
    assert text.startswith("The broker was Redis 7.0.15.\n")
    fleet, other = cells(text, report.FAULTS["workers killed"])
    assert fleet == [
        *(
            "200",
            "Celery Fleet",
            "5,000",
            "5,000",
            "**0**",
            "-",
            "**7**",
            f"7 {cause}",
            "0.35 s",
            "1.20 s",
        )
    ]
    assert other[1:6] == [
        "stock Celery, late acknowledgement",
        "5,000",
        "4,949",
        "**51**",
        "51 never begun",
    ]
    assert other[-2:] == ["-", "-"]


def test_cases_have_the_order_of_the_page_and_unknown_ones_come_last() -> None:
    names = ["a new one", "Redis full", "workers killed"]
    found = {(name, "fleet"): Result(summary(name)) for name in names}
    lines = report.figures(found, {}).partition("Measured by:")[0].splitlines()
    first = [line.strip("| ").split(" | ")[0] for line in lines if line.startswith("| ")][2:]
    assert first == [report.FAULTS["workers killed"], report.FAULTS["Redis full"], "a new one"]


def test_cases_that_are_not_promised_are_separate() -> None:
    (name,) = report.APART
    found = {
        ("Redis full", "fleet"): Result(summary("Redis full")),
        (name, "fleet"): Result(summary(name, lost=3, lost_causes={"never begun": 3})),
    }
    text = report.figures(found, {})
    promised, _, apart = text.partition("Measured, and not promised:")
    assert not cells(promised, report.APART[name])
    assert cells(apart, report.APART[name])[0][4] == "**3**"


def test_refused_and_revoked_tasks_are_shown() -> None:
    kinds = summary(
        "workers killed under every kind of message",
        refused=12,
        revoked=40,
        unheeded={"it began though it was revoked, as its worker started": 1},
    )
    text = report.figures({(kinds.name, "fleet"): Result(kinds)}, {})
    line = cells(text, report.FAULTS[kinds.name])[0]
    assert line[2] == "5,000, 12 more refused"
    assert line[3].startswith("5,000, 40 of them revoked; 1 it began though it was revoked")


def test_dropped_tasks_are_shown() -> None:
    one = summary("Redis full", done=4998, dropped={"never begun, as its worker was killed": 2})
    line = cells(report.figures({(one.name, "fleet"): Result(one)}, {}), report.FAULTS[one.name])[0]
    assert line[3] == (
        "4,998; dropped, as `at_most_once` allows: 2 never begun, as its worker was killed"
    )


def test_missing_cases_are_named() -> None:
    text = report.figures({("Redis full", "fleet"): Result(summary("Redis full"))}, {})
    missing = text.rpartition("No passing run yet: ")[2]
    assert report.FAULTS["workers killed"] in missing
    assert report.FAULTS["Redis full"] not in missing
    every = {(name, "fleet"): Result(summary(name)) for name in (*report.FAULTS, *report.APART)}
    assert "No passing run yet" not in report.figures(every, {})


def test_a_run_without_deaths_has_no_recovery() -> None:
    line = report._line("x", Result(summary("x"), Recovery(0, math.nan, math.nan)))
    assert line[-2:] == ["-", "-"]


def test_without_runs_there_is_no_table() -> None:
    with pytest.raises(ReportError, match="make soak-delivery"):
        report.figures({}, {})


def test_every_case_of_the_scenario_has_its_place() -> None:
    """Otherwise a case that no test has any more would silently count as never run."""
    tests = "\n".join(
        path.read_text() for path in (report.ROOT / "molecule").glob("delivery/tests/test_*.py")
    )
    for name in (*report.FAULTS, *report.APART):
        if name.startswith("from "):
            assert 'f"from {other} to {new} workers"' in tests
        else:
            assert f'"{name}"' in tests, name


def test_the_page_has_a_place_for_the_table() -> None:
    assert "new" in report.between(report.PAGE.read_text(), "new", report.PAGE)
