"""The model holds with all rules, and breaks without each of them; `world.py` describes it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.delivery.model.design import OURS, STOCK
from tests.unit.delivery.model.machine import Machine, machine
from tests.unit.delivery.model.world import BrokenError

#: Nearly the same runs each time: hypothesis also draws constants of loaded modules.
BASE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    report_multiple_bugs=False,
    stateful_step_count=50,
    # The length of a run depends on the machine, and a step is rarely possible for all workers.
    suppress_health_check=list(HealthCheck),
)
SHORT = settings(BASE, max_examples=60)
DEEP = settings(BASE, max_examples=600, stateful_step_count=80)
#: It is enough to find a fault, so runs are not shrunk; that takes tens to hundreds of runs.
SEARCH = settings(BASE, max_examples=10_000, stateful_step_count=30, phases=[Phase.generate])


def explore(made: type[Machine], how: settings) -> None:
    run_state_machine_as_test(made, settings=how)


def assert_breaks(kind: str, *left_out: str, faults: tuple[str, ...]) -> None:
    """Check that something breaks in this way without some parts, even if only these faults happen."""
    with pytest.raises(BrokenError) as found:
        explore(machine(OURS.without(*left_out), watched={kind}, faults=faults), SEARCH)
    assert found.value.kind == kind


def test_nothing_is_lost_or_doubled() -> None:
    explore(machine(), SHORT)


def test_nothing_is_lost_or_doubled_beside_a_stock_worker() -> None:
    """The stock worker itself has no faults, because their effect on its own messages is known."""
    explore(machine(stock=STOCK), SHORT)


@pytest.mark.long
def test_nothing_is_lost_or_doubled_in_many_runs() -> None:
    made = machine()
    explore(made, DEEP)
    # Each of these must have happened; otherwise the model tries less than it says.
    missing = {
        *("killed", "host killed", "child killed", "outage", "quit", "handed back", "swept"),
        *("again", "cut_off", "unacknowledged"),
    } - set(made.seen)
    assert not missing


@pytest.mark.long
def test_nothing_is_lost_or_doubled_beside_a_stock_worker_in_many_runs() -> None:
    made = machine(stock=STOCK)
    explore(made, settings(DEEP, max_examples=250))
    assert {"swept", "handed back", "cut_off"} <= set(made.seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "left_out", "fault"),
    [
        pytest.param("lost", "atomic_fetch", "kill", id="it pops, and writes in a second step"),
        pytest.param("doubled", "carry", "lose", id="it puts running tasks back"),
        pytest.param(
            "doubled",
            "resend",
            "lose",
            id="it forgets acknowledgements that failed",
            marks=pytest.mark.long,
        ),
        pytest.param("doubled", "lease", "drain", id="it has a visibility timeout without a lease"),
        pytest.param(
            "stolen", "tag_per_delivery", "cut", id="its tags come again", marks=pytest.mark.long
        ),
    ],
)
def test_faults_of_stock_are_found(kind: str, left_out: str, fault: str) -> None:
    assert_breaks(kind, left_out, faults=(fault,))


def test_stock_loses_and_doubles_by_itself() -> None:
    for kind in ("lost", "doubled"):
        with pytest.raises(BrokenError, match=kind):
            explore(machine(STOCK, watched={kind}), SEARCH)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "left_out", "faults"),
    [
        ("stuck", ["sweeps"], ["kill_host"]),
        ("stuck", ["renews_known"], ["lose"]),
        ("disagree", ["renews_existing"], ["lose"]),
        ("doubled", ["renews_outstanding"], ["drain"]),
        # Either fault is enough by itself.
        ("doubled", ["renews_outstanding", "spares_outstanding"], ["drain"]),
        ("doubled", ["broker_clock"], ["drain"]),
        ("doubled", ["patient"], ["outage"]),
        ("doubled", ["patient", "spares_own"], ["cut", "freeze"]),
        ("doubled", ["guarded"], ["drain", "lose"]),
        ("doubled", ["lock"], ["kill"]),
        ("doubled", ["acknowledges_dead"], ["lose", "kill"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_each_rule_of_the_fleet_is_needed(
    kind: str, left_out: list[str], faults: list[str]
) -> None:
    assert_breaks(kind, *left_out, faults=tuple(faults))


@pytest.mark.long
def test_a_sweep_that_skips_its_own_only_needs_patience_after_outages() -> None:
    made = machine(OURS.without("patient"), faults=("cut", "freeze"))
    explore(made, settings(BASE, max_examples=150))
    assert made.seen["cut_off"]
