"""The delivered playbook, run again on a fleet that is as it should be, changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import plays, units

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(1)


def test_changes_nothing(fleet: Fleet) -> None:
    before = units.main_pids(fleet)
    run = plays.play(fleet, "second-run")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    assert units.main_pids(fleet) == before
    # What the tests of refusals count is there to be counted.
    assert run.contacts > 0
