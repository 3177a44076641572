"""Which kept runs may be published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.restarts import delivery_report, origin, report
from scripts.restarts.delivery_report import Result

from .runs import Checkout, summary


def test_a_commit_is_dirty_if_what_is_measured_has_changes(checkout: Checkout) -> None:
    head = checkout.git("rev-parse", "HEAD")
    checkout.write("docs/page.md", "second\n")
    checkout.write("molecule/other/a", "second\n")
    assert origin.commit("delivery", checkout.root) == head
    checkout.write("roles/new", "untracked\n")
    assert origin.commit("delivery", checkout.root) == f"{head}-dirty"


def test_the_message_says_that_there_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(origin.ReportError, match="is not a git checkout"):
        origin.commit("delivery", tmp_path)


def test_a_run_that_passed_on_this_commit_is_published(checkout: Checkout) -> None:
    assert origin.objection(checkout.run(), checkout.root) == ""


@pytest.mark.parametrize(
    "changed",
    [
        "src/a.py",
        "plugins/a.py",
        "roles/a.yml",
        "templates/a.j2",
        "molecule/delivery/tests/test_a.py",
        "molecule/restarts/application/load/tasks.py",
        "scripts/restarts/judge.py",
        "scripts/restarts/summary.py",
    ],
)
def test_a_run_is_stale_once_what_it_measured_has_changed(checkout: Checkout, changed: str) -> None:
    run = checkout.run()
    checkout.write(changed, "second\n")
    checkout.commit()
    why = origin.objection(run, checkout.root)
    assert why == f"{changed} changed since its commit {run.commit[:7]}"


def test_failover_uses_the_faults_of_delivery() -> None:
    assert "molecule/delivery" in origin.paths_of("failover")
    assert "molecule/delivery" not in origin.paths_of("noon")


def test_a_change_of_something_else_makes_no_run_stale(checkout: Checkout) -> None:
    run = checkout.run()
    checkout.write("docs/page.md", "second\n")
    checkout.write("molecule/other/a", "second\n")
    checkout.commit()
    assert origin.objection(run, checkout.root) == ""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tests": {"test_a": "passed", "test_b": "failed"}}, "its test failed: test_b"),
        ({"tests": {}}, "no test has judged it"),
        ({"commit": ""}, "no test has judged it"),
        (
            {"command": "make test-delivery"},
            "it was made by make test-delivery, which makes few faults",
        ),
        ({"commit": "0" * 40}, "its commit 0000000 is unknown here"),
    ],
)
def test_runs_that_may_not_be_published(
    checkout: Checkout, changed: dict[str, Any], why: str
) -> None:
    assert origin.objection(checkout.run(**changed), checkout.root) == why


def test_a_run_with_uncommitted_changes_is_not_published(checkout: Checkout) -> None:
    head = checkout.git("rev-parse", "HEAD")
    run = checkout.run(commit=f"{head}-dirty")
    why = origin.objection(run, checkout.root)
    assert why == f"it was measured with uncommitted changes to {head[:7]}"


def test_an_old_run_without_a_commit_is_refused(checkout: Checkout) -> None:
    assert origin.objection(summary("workers killed"), checkout.root) == "no test has judged it"


def found(*runs: Any) -> dict[tuple[str, str], Result]:
    return {(run.name, run.way): Result(run) for run in runs}


def test_the_refusal_names_each_run_and_the_command(checkout: Checkout) -> None:
    bad = checkout.run("Redis full", tests={"test_redis_full": "failed"})
    runs = found(checkout.run(), checkout.run(way="stock"), bad)
    with pytest.raises(origin.ReportError) as refused:
        delivery_report.require_publishable(runs, checkout.root)
    assert str(refused.value) == (
        "these runs can't be published:\n"
        "  Redis full (fleet): its test failed: test_redis_full\n"
        "run again: make soak-delivery"
    )
    delivery_report.require_publishable(
        found(checkout.run(), checkout.run(way="stock")), checkout.root
    )


@pytest.mark.parametrize("name", ["workers killed", "all connections cut"])
def test_without_the_row_of_stock_celery_nothing_is_published(
    checkout: Checkout, name: str
) -> None:
    with pytest.raises(origin.ReportError) as refused:
        delivery_report.require_publishable(found(checkout.run(name)), checkout.root)
    assert f"{name} (stock): it was not run" in str(refused.value)
    assert str(refused.value).endswith("run again: make soak-delivery")


def test_restarts_are_only_published_with_all_runs_that_they_are_compared_with(
    checkout: Checkout,
) -> None:
    runs = {
        (name, way): checkout.run(name, way, scenario="restarts") for name, way in report.WANTED
    }
    report.require_publishable(runs, checkout.root)
    for missing in (("roll", "plain"), ("all of these", "plain")):
        fewer = {key: run for key, run in runs.items() if key != missing}
        with pytest.raises(
            origin.ReportError, match=rf"{missing[0]} \({missing[1]}\): it was not run"
        ):
            report.require_publishable(fewer, checkout.root)


def test_every_wanted_run_is_one_of_the_scenario() -> None:
    """Otherwise a run that no test has any more would be missing for ever."""
    paths = (report.ROOT / "molecule/restarts/tests").glob("test_*.py")
    tests = "\n".join(path.read_text() for path in paths)
    for name, _ in report.WANTED:
        assert f'"{name}"' in tests, name


def test_origins_are_grouped_by_command_and_commit(checkout: Checkout) -> None:
    head = checkout.git("rev-parse", "HEAD")[:7]
    runs = [
        checkout.run("a"),
        checkout.run("b", made="2026-11-23T01:00:00+00:00"),
        checkout.run("c", command="make soak-restarts"),
    ]
    assert origin.table_of_origins(runs) == [
        ["`make soak-delivery`", f"`{head}`", "2026-11-22 to 2026-11-23", "2"],
        ["`make soak-restarts`", f"`{head}`", "2026-11-22", "1"],
    ]


def test_runs_with_few_faults_have_another_command_and_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(origin.SOAK, raising=False)
    assert origin.command_of("delivery") == "make test-delivery"
    assert origin.results("delivery") not in (delivery_report.RESULTS, report.RESULTS)
    monkeypatch.setenv(origin.SOAK, "1")
    assert origin.command_of("delivery") == "make soak-delivery"
    assert origin.results("delivery") == delivery_report.RESULTS
    assert origin.results() == report.RESULTS
