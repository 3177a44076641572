from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from scripts.restarts import judge, report
from scripts.restarts.measure import Series
from scripts.restarts.picture import Panel, draw, nice, smooth
from scripts.restarts.record import LoadRecord
from scripts.restarts.summary import RestartSummary, Rules, summarise

SVG = "{http://www.w3.org/2000/svg}"


def record() -> LoadRecord:
    """Return a record of three tasks; a worker stops at 101 and is back at 105, and one task is lost."""
    task = {"kind": "nap", "queue": "fast", "seconds": 2.0, "attempts": 1, "refused": False}
    sends = [
        task | {"task": name, "sent": at, "ready": at}
        for name, at in (("a", 90.0), ("b", 100.0), ("c", 102.0))
    ]
    start = {"attempt": 0, "node": "fast@w1", "pid": 1, "retry_at": None, "message": "m"}
    runs = [
        start | {"task": name, "started": at, "ended": ended}
        for name, at, ended in (("a", 90.1, 92.1), ("b", 100.5, None), ("c", 105.0, 107.0))
    ]
    events = [
        ("w1", "ready", 1.0),
        ("w2", "ready", 2.0),
        ("w1", "leaving", 101.0),
        ("w1", "ready", 105.0),
    ]
    workers = [
        {"node": f"fast@{host}", "event": event, "queues": ["fast"], "processes": 6, "at": at}
        for host, event, at in events
    ]
    return LoadRecord.of({"sends": sends, "runs": runs, "workers": workers})


@pytest.fixture
def summary() -> RestartSummary:
    return summarise("roll", "fleet", 7, record(), (100.0, 106.0), Rules({"fast": 12}, 0.5, 4))


def test_a_summary_is_computed_from_a_record(summary: RestartSummary) -> None:
    assert (summary.sent, summary.done, summary.lost, summary.doubled) == (3, 2, 1, 0)
    assert summary.lost_causes == {"cut off while it ran: its worker was stopped": 1}
    assert summary.fewest == {"fast": 6}
    # These are the waits of tasks that became ready after the restart began.
    assert summary.waits == pytest.approx({"p50": 0.5, "p99": 3.0, "longest": 3.0})
    assert summary.restart == (10.0, 16.0)
    # The command ended one second after the worker was back.
    assert (summary.roll, summary.critical) == (5.0, 4.0)


def test_summary_is_read_as_it_was_written(summary: RestartSummary, tmp_path: Path) -> None:
    path = tmp_path / "fleet-roll.summary.json"
    summary.write(path)
    assert RestartSummary.read(path) == summary
    assert report.load(tmp_path) == {("roll", "fleet"): summary}


def altered(summary: RestartSummary, **values: Any) -> RestartSummary:
    return RestartSummary(**{**vars(summary), **values})


def test_table_has_a_column_for_each_way_and_a_line_for_each_fault(summary: RestartSummary) -> None:
    fault = altered(summary, name="Redis is restarted", doubled=2, doubled_causes={"run twice": 2})
    found = {
        ("calm", "fleet"): altered(summary, name="calm", lost=0, lost_causes={}),
        ("roll", "plain"): altered(summary, way="plain", lost=29, critical=None),
        ("roll", "fleet"): summary,
        ("overlap", "fleet"): altered(summary, name="overlap"),
        ("Redis is restarted", "fleet"): fault,
    }
    text = report.figures(found)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert lines["**lost**"].split("|")[2:4] == [" **1** ", " **29** "]
    assert lines["shortest possible time for these drains and boots"].split("|")[2:4] == [
        " 4.00 s ",
        " - ",
    ]
    assert lines["ratio of the two"].split("|")[2:4] == [" 1.25 ", " - "]
    assert "2 run twice" in lines["Redis is restarted"]
    # An orderly restart is not a fault.
    assert "overlap" not in lines
    assert "fewest consuming processes were fast 6" in text
    assert len({line.count("|") for line in text.split("\n\n")[0].splitlines()}) == 1


def test_the_page_keeps_its_text_around_the_figures() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.between(page, "new")
    assert new == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.between(new, "new") == new
    with pytest.raises(report.ReportError, match="lacks the lines"):
        report.between("no place\n", "new")


# --- the picture -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "axis"), [(0, (1, 1)), (1, (1, 1)), (4.2, (5, 1)), (29, (30, 10)), (52.4, (60, 20))]
)
def test_axes_end_at_round_numbers(largest: float, axis: tuple[int, int]) -> None:
    assert nice(largest) == axis


def test_smooth_is_a_mean_that_keeps_the_edges() -> None:
    assert smooth([10, 10, 10, 10]) == [10, 10, 10, 10]
    assert smooth([0, 0, 10, 0, 0])[2] == 2
    assert smooth([6]) == [6]


def test_picture_shows_each_way_with_its_losses() -> None:
    panels = [
        Panel("ours & theirs", Series(0, [50] * 60, [0] * 60), (20, 50)),
        Panel("plain", Series(0, [40] * 30, [0] * 20 + [29] * 10), (20, 26)),
    ]
    root = ET.fromstring(draw(panels, "what"))  # noqa: S314  # made here
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"ours & theirs", "plain", "0 lost", "29 lost", "seconds"} <= set(texts)
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in root.iter(f"{SVG}polyline")
    ]
    assert [len(line) for line in lines] == [60, 60, 30, 30]
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert all(0 <= x <= width and 0 <= y <= height for line in lines for x, y in line)
    # The line of the way with losses rises, the other one stays at zero.
    assert len({y for _, y in lines[1]}) == 1
    assert lines[3][-1][1] < lines[3][0][1]
    assert not any(math.isnan(x) for line in lines for x, _ in line)


# --- allowed causes ------------------------------------------------------------------------------


def test_causes_are_only_allowed_by_their_full_names(summary: RestartSummary) -> None:
    killed, unexplained = (
        judge.was_cut_off(reason) for reason in ("its worker was killed", judge.UNEXPLAINED)
    )
    causes = {killed: 3, unexplained: 1, judge.had_ended(""): 2, judge.was_sent_twice(""): 1}
    found = altered(summary, doubled_causes=causes)
    allowed = [killed, judge.had_ended("its worker was killed"), judge.was_sent_twice("it hung")]
    assert found.unexpected(allowed) == {
        unexplained: 1,
        judge.had_ended(""): 2,
        judge.was_sent_twice(""): 1,
    }
    assert altered(summary, doubled_causes={killed: 3}).unexpected(allowed) == {}
