"""For every inventory: no traceback, no secret, and nothing is accepted that a role would refuse.

`mutations.py` draws inventories, `oracle.py` decides what is valid. Nearly the same ones come each time
(`derandomize`); to look further, raise `max_examples` of `DEEP`, and leave out `@seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    Severity,
)
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

from scripts.restarts import origin
from tests.unit.preflight import mutations, oracle
from tests.unit.preflight.inventory import problems, specs, valid

BASE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    report_multiple_bugs=False,
    # How long an inventory takes depends on the machine, and all examples may share the files of the source.
    suppress_health_check=list(HealthCheck),
)
SHORT = settings(BASE, max_examples=5)
SOME = settings(BASE, max_examples=6)
DEEP = settings(BASE, max_examples=500 if origin.is_soak() else 40)
# Mutations in four parts, of which each draws others: 24 in `make test`, 160 in `make test-all`, 2,000 in a soak.
PARTS = 4
#: A soak empties each variable, `make test-all` every third.
STRIDE = 1 if origin.is_soak() else 3
EMPTY: Final[Mapping[str, Any]] = {"list": [], "dict": {}, "int": 0, "float": 0, "bool": False}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


def explore(source: Path, part: int, how: settings) -> None:
    # Otherwise each part would draw the same inventories: `derandomize` takes the seed from this function's source.
    @seed(part)
    @how
    @given(st.data())
    def hold(data: st.DataObject) -> None:
        inventory = data.draw(mutations.inventories(source))
        assert_honest(data.draw(mutations.mutations(inventory)))

    hold()


def assert_honest(inventory: mutations.Inventory, say: Callable[[str], None] = note) -> None:
    """Check that preflight's messages have no secret, and that no role would refuse what preflight accepts."""
    found = problems(inventory.everywhere, inventory.hosts, inventory.groups)
    text = text_of(found, inventory)
    say(text)
    assert mutations.MARK not in text
    if not any(problem.severity is Severity.ERROR for problem in found):
        refused = oracle.refusals(inventory.everywhere, inventory.hosts, inventory.groups)
        assert refused == []


def text_of(found: list[Problem], inventory: mutations.Inventory) -> str:
    everyone = inventory.groups.get("fleet", [])
    lines = [report.line(problem, inventory.groups, everyone) for problem in found]
    return "\n".join([report.block("x", found, inventory.groups, everyone), *lines])


@pytest.mark.slow
def test_valid_inventories_pass(source: Path) -> None:
    """Otherwise mutations would be refused for another reason."""

    @SHORT
    @given(mutations.inventories(source))
    def hold(inventory: mutations.Inventory) -> None:
        found = problems(inventory.everywhere, inventory.hosts, inventory.groups)
        assert [problem for problem in found if problem.severity is Severity.ERROR] == []
        assert oracle.refusals(inventory.everywhere, inventory.hosts, inventory.groups) == []

    hold()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_changed_inventories_are_refused_or_work(source: Path, part: int) -> None:
    explore(source, part, SOME)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_each_empty_variable_is_refused_or_works(source: Path, part: int) -> None:
    """A drawn value rarely meets a particular variable, and empty variables are the most common mistake."""
    for name in sorted(specs().options)[part :: PARTS * STRIDE]:
        empty = EMPTY.get(str(specs().options[name].get("type", "str")), "")
        everywhere = {**valid(source), name: empty}
        assert_honest(mutations.Inventory(dict(mutations.ALONE), everywhere), print)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_many_changed_inventories_are_refused_or_work(source: Path, part: int) -> None:
    explore(source, part, DEEP)
