"""Old names of variables and options are refused with the new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import renamed
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from tests.unit.preflight.inventory import ROOT, problems, specs, valid
from tests.unit.preflight.test_run import MIGRATE, R, W, only

Variables = dict[str, Any]


@pytest.fixture
def variables(tmp_path: Path) -> Variables:
    return valid(tmp_path)


@pytest.mark.parametrize(("old", "new"), renamed.VARIABLES.items())
def test_an_old_name_is_refused_with_the_new_one(variables: Variables, old: str, new: str) -> None:
    assert new in specs().options
    assert old not in specs().options
    one = only(problems({**variables, old: "x", "preflight_allowed_variables": [old, "celery_*"]}))
    assert (one.variable, one.severity) == (old, Severity.ERROR)
    assert new in one.remedy


@pytest.mark.parametrize(("old", "new"), renamed.WORKER.items())
def test_an_old_option_of_a_worker_is_refused(variables: Variables, old: str, new: str) -> None:
    variables[W]["analytics"][old] = "x"
    one = only(problems(variables))
    assert (one.variable, new in one.remedy) == (f"{W}.analytics.{old}", True)
    del variables[W]["analytics"][old]
    variables["celery_worker_defaults"] = {old: "x"}
    assert {one.variable for one in problems(variables)} == {f"celery_worker_defaults.{old}"}


@pytest.mark.parametrize(("old", "new"), renamed.COMMAND.items())
def test_an_old_option_of_a_command_is_refused(variables: Variables, old: str, new: str) -> None:
    # YAML reads a bare `on` as true.
    for key in (old, True):
        one = only(problems({**variables, R: [MIGRATE | {key: "one"}]}))
        assert (one.variable, new in one.remedy) == (f"{R}[0].{old}", True)


def test_upgrading_lists_them_all() -> None:
    text = (ROOT / "docs/upgrading.md").read_text()
    options = {
        **{f"celery_worker_defaults.{old}": new for old, new in renamed.WORKER.items()},
        **{f"celery_release_commands[].{old}": new for old, new in renamed.COMMAND.items()},
    }
    for old, new in {**renamed.VARIABLES, **options}.items():
        assert f"| `{old}` | `{new}` |" in text
