from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from scripts import tested

PASSED = '<testsuites><testsuite name="pytest" tests="7" failures="0" errors="0"/></testsuites>'
FAILED = '<testsuites><testsuite name="pytest" tests="7" failures="1" errors="1"/></testsuites>'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a repository with two scenarios and a clean tree."""
    for name in ("change", "upgrade"):
        scenario = tmp_path / "molecule" / name / "molecule.yml"
        scenario.parent.mkdir(parents=True)
        scenario.write_text("---\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / tested.PAGE).write_text("old\n")
    (tmp_path / ".gitignore").write_text(".state\n")
    (tmp_path / ".state" / "failures").mkdir(parents=True)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def ran(checkout: Path, part: str, junit: str | None, status: int = 0) -> tested.PartRun:
    path = checkout / ".state" / "failures" / f"{part}.xml"
    if junit is not None:
        path.write_text(junit)
    assert tested.main(["record", part, str(path), "90.0", str(status)], checkout) == 0
    return tested.read(checkout)[part]


def rows(checkout: Path) -> dict[str, list[str]]:
    assert tested.main(["page"], checkout) == 0
    lines = (checkout / tested.PAGE).read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    return {first: rest for first, *rest in cells[2:]}


def test_each_part_has_a_row(checkout: Path) -> None:
    run = ran(checkout, "change", PASSED)
    ran(checkout, "soak-delivery", PASSED)
    found = rows(checkout)
    assert list(found) == [
        *tested.WITHOUT_HOSTS.values(),
        "`change`",
        "`upgrade`",
        "`soak-arm64`",
        "`soak-delivery`",
        "`soak-failover`",
        "`soak-long`",
        "`soak-noon`",
        "`soak-restarts`",
    ]
    assert found["`change`"][:4] == ["passed", "7", "1.5", f"`{run.commit[:7]}`"]
    assert found["`upgrade`"][0] == "**not run**"
    assert "the parts without `soak` took 2 minutes" in (checkout / tested.PAGE).read_text()


@pytest.mark.parametrize(
    ("junit", "status", "result"),
    [
        (FAILED, 1, "**2 failed**"),
        (FAILED, 0, "**2 failed**"),
        (PASSED, 1, "**did not end well**"),
        (None, 0, "**did not end well**"),
        ("<half", 0, "**did not end well**"),
    ],
)
def test_a_part_that_failed_or_ran_no_test_has_not_passed(
    checkout: Path, junit: str | None, status: int, result: str
) -> None:
    assert not ran(checkout, "fast", junit, status).passed
    assert rows(checkout)["without hosts"][0] == result


@pytest.mark.parametrize(("status", "result"), [(0, "passed"), (1, "**did not end well**")])
def test_the_sanity_tests_pass_if_their_command_does(
    checkout: Path, status: int, result: str
) -> None:
    assert ran(checkout, "sanity", None, status).passed == (status == 0)
    assert rows(checkout)["`ansible-test sanity`"][:3] == [result, "", "1.5"]


def test_uncommitted_changes_are_named_except_those_of_the_page(checkout: Path) -> None:
    (checkout / tested.PAGE).write_text("new\n")
    assert not ran(checkout, "fast", PASSED).commit.endswith("-dirty")
    (checkout / "docs" / "other.md").write_text("new\n")
    assert ran(checkout, "fast", PASSED).commit.endswith("-dirty")
    assert rows(checkout)["without hosts"][3].endswith("and uncommitted changes")


def test_the_last_run_of_a_part_counts(checkout: Path) -> None:
    ran(checkout, "fast", FAILED, 1)
    assert ran(checkout, "fast", PASSED).passed
    assert len(list((checkout / ".state" / "tested").iterdir())) == 1


def test_unknown_arguments_are_refused(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tested.main(["record", "fast"], checkout) == 2
    assert "python -m scripts.tested page" in capsys.readouterr().err


def test_a_record_holds_what_the_page_shows(checkout: Path) -> None:
    ran(checkout, "fast", PASSED)
    kept = json.loads((checkout / ".state" / "tested" / "fast.json").read_text())
    assert kept["part"] == "fast"
    assert (kept["tests"], kept["seconds"], kept["passed"]) == (7, 90.0, True)


def test_a_row_stays_if_its_part_ran_in_another_checkout(checkout: Path) -> None:
    ran(checkout, "change", PASSED)
    before = rows(checkout)
    (checkout / ".state" / "tested" / "change.json").unlink()
    ran(checkout, "fast", FAILED, 1)
    after = rows(checkout)
    assert after["`change`"] == before["`change`"]
    assert after["without hosts"][0] == "**2 failed**"
    assert "the parts without `soak` took 3 minutes" in (checkout / tested.PAGE).read_text()


def test_a_row_says_how_much_of_the_product_has_changed_since(checkout: Path) -> None:
    product = checkout / "src" / "module.py"
    ran(checkout, "change", PASSED)
    assert rows(checkout)["`change`"][-1] == "no files"
    (checkout / "docs" / "other.md").write_text("new\n")
    product.parent.mkdir()
    product.write_text("new\n")
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    assert rows(checkout)["`change`"][-1] == "1 file"
    text = (checkout / tested.PAGE).read_text()
    record = checkout / ".state" / "tested" / "change.json"
    record.unlink()
    (checkout / tested.PAGE).write_text(
        text.replace("`change` | passed | 7 | 1.5 | `", "`change` | passed | 7 | 1.5 | `f00")
    )
    assert rows(checkout)["`change`"][-1] == "its commit is unknown"
