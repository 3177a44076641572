"""The page of deploys under load, from kept runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from scripts.restarts import noon_report as report
from scripts.restarts import origin
from scripts.restarts.measure import Series
from scripts.restarts.report import between
from tests.unit.restarts.runs import Checkout, summary

TIMES = {"hosts": 3, "deploy": 38.2, "back": 17.5}
SEEN = {
    "web": {"requests": 4000, "failed": 0},
    "beat": {"slots": 12, "doubled": 0, "missed": 0},
}


def case(name: str) -> Any:
    series = Series(0, [50] * 60, [0] * 60)
    return summary(name, series=series, report=SEEN if name == "deploys" else {})


def test_the_page_has_a_line_for_each_case_and_the_times() -> None:
    found = {(name, "fleet"): case(name) for name in report.CASES}
    found["bad releases", "fleet"] = summary("bad releases", lost=2, lost_causes={"cut off": 2})
    text = report.figures(found, TIMES)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert set(report.CASES.values()) <= lines.keys()
    assert "| **2** | 2 cut off |" in lines[report.CASES["bad releases"]]
    assert lines["`rollback_app.yml`"].endswith("| 18 s | 20 s |")
    assert "0 of 4,000 requests to the web process failed" in text
    assert "12 slots: 0 were doubled and 0 missed" in text


def test_the_picture_shades_deploys() -> None:
    found = {(name, "fleet"): case(name) for name in report.CASES}
    drawn = ET.fromstring(report.picture(found))  # noqa: S314  # made here
    texts = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {"Good releases", "Refused releases", "deploys"} <= texts


def test_only_whole_measurements_of_one_commit_are_published(checkout: Checkout) -> None:
    values = {"scenario": "noon", "command": "make soak-noon"}
    found = {(name, "fleet"): checkout.run(name, **values) for name in report.CASES}
    times = {**TIMES, "commit": checkout.git("rev-parse", "HEAD")}
    report.require_publishable(found, times, checkout.root)
    with pytest.raises(origin.ReportError, match="the times of a deploy"):
        report.require_publishable(found, {**times, "commit": "another"}, checkout.root)
    del found["bad releases", "fleet"]
    with pytest.raises(origin.ReportError, match="bad releases: it was not run"):
        report.require_publishable(found, times, checkout.root)
    found["bad releases", "fleet"] = checkout.run("bad releases", **values)
    checkout.write("playbooks/deploy_app.yml", "changed\n")
    checkout.commit()
    with pytest.raises(origin.ReportError, match=r"playbooks/deploy_app\.yml changed since"):
        report.require_publishable(found, times, checkout.root)


def test_every_case_is_one_of_the_scenario() -> None:
    paths = (report.ROOT / "molecule/noon/tests").glob("test_*.py")
    tests = "\n".join(path.read_text() for path in paths)
    for name in report.CASES:
        assert f'"{name}"' in tests, name
    assert '"times"' in tests


def test_the_page_has_a_place_for_the_figures() -> None:
    assert "new" in between(report.PAGE.read_text(), "new", report.PAGE)
