from __future__ import annotations

import math

import pytest

from scripts.restarts import measure
from tests.unit.restarts.records import mark, record, run, send, worker


def test_wait_counts_from_ready_and_from_the_first_start() -> None:
    found = record(
        sends=[send("a"), send("eta", ready=130.0), send("early", ready=140.0), send("lost")],
        runs=[
            *(run("a", 100.5, None), run("a", 220.0, 221.0)),
            *(run("eta", 130.2, 131.0), run("early", 139.99, 141.0)),
        ],
    )
    assert measure.waits(found) == pytest.approx([0.5, 0.2, 0.0])


def test_a_retry_waits_from_when_it_is_due() -> None:
    runs = [run("a", 100.0, 101.0, retry_at=103.0), run("a", 103.4, 104.0, attempt=1)]
    found = record(sends=[send("a", attempts=2)], runs=runs)
    assert measure.waits(found) == pytest.approx([0.0, 0.4])
    assert measure.waits(found, 102.0, 110.0) == pytest.approx([0.4])


def test_a_follow_up_waits_from_the_end_of_its_sender() -> None:
    sends = [send("r.000004", kind="relay"), send("r.000005", kind="relayed", ready=None)]
    runs = [run("r.000004", 100.5, 101.0), run("r.000005", 103.0, 104.0)]
    assert measure.waits(record(sends=sends, runs=runs)) == pytest.approx([0.5, 2.0])


def test_the_body_of_a_chord_has_no_wait() -> None:
    assert measure.waits(record(sends=[send("a", ready=None)], runs=[run("a", 100.5, 101)])) == []


def test_percentile_is_the_nearest_rank() -> None:
    hundred = [float(n) for n in range(100, 0, -1)]
    assert [measure.percentile(hundred, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert measure.percentile([3.0], 0.5) == 3.0
    assert math.isnan(measure.percentile([], 0.5))


# --- consumers and the roll ------------------------------------------------------------------------


def test_the_fewest_consumers_in_a_period() -> None:
    found = record(
        workers=[
            *(worker("fast@w1", "ready", 10.0), worker("fast@w2", "ready", 11.0)),
            *(worker("fast@w1", "leaving", 100.0), worker("fast@w1", "ready", 105.0, 5)),
            *(worker("fast@w2", "leaving", 110.0), worker("fast@w2", "ready", 115.0)),
        ]
    )
    assert measure.fewest_consumers(found, 20.0, 90.0) == {"fast": 12}
    assert measure.fewest_consumers(found, 50.0, 107.0) == {"fast": 6}
    assert measure.fewest_consumers(found, 50.0, 120.0) == {"fast": 5}
    assert measure.fewest_consumers(found, 112.0, 113.0) == {"fast": 5}


def test_a_lost_host_has_no_consumers() -> None:
    events = [worker("fast@w1", "ready", 10.0), worker("fast@w2", "ready", 11.0)]
    gone = mark(50.0, "its host was lost", host="w2", fatal=True)
    found = record(workers=events, marks=[gone])
    assert measure.fewest_consumers(found, 20.0, 90.0) == {"fast": 6}


def test_turns_last_from_the_first_stop_to_the_next_start() -> None:
    found = record(
        workers=[
            worker("fast@w1", "ready", 10.0),
            *(worker("fast@w1", "leaving", 100.0, 0), worker("fast@w1", "leaving", 101.0, 0)),
            worker("fast@w1", "ready", 105.0),
            worker("fast@w1", "leaving", 300.0, 0),
        ]
    )
    assert measure.turns(found, 50.0, 400.0) == [
        measure.WorkerTurn("fast@w1", ("fast",), 6, 100.0, 105.0)
    ]
    assert measure.turns(found, 101.0, 400.0) == []


def turn(node: str, queue: str, seconds: float, processes: int = 6) -> measure.WorkerTurn:
    return measure.WorkerTurn(node, (queue,), processes, 0.0, seconds)


CAPACITY = {"fast": 18, "slow": 9}


def test_workers_of_one_queue_restart_one_by_one_if_its_capacity_requires_it() -> None:
    done = [turn(f"fast@w{n}", "fast", seconds) for n, seconds in enumerate((10.0, 5.0, 7.0))]
    assert measure.critical_path(done, CAPACITY, 0.5, 4, pilots=0) == 22.0
    assert measure.critical_path(done, CAPACITY, 0.3, 4, pilots=0) == 12.0


def test_queues_restart_in_parallel_after_the_first_worker() -> None:
    done = [
        *(turn("fast@w1", "fast", 10.0), turn("fast@w2", "fast", 10.0)),
        *(turn("slow@w1", "slow", 6.0, 3), turn("slow@w2", "slow", 6.0, 3)),
    ]
    assert measure.critical_path(done, CAPACITY, 0.5, 4, pilots=0) == 20.0
    assert measure.critical_path(done, CAPACITY, 0.5, 4) == 22.0
    assert measure.critical_path(done, CAPACITY, 0.5, 1) == 32.0


def test_the_only_worker_of_a_queue_counts_as_well() -> None:
    assert measure.critical_path([turn("fast@w1", "fast", 3.0)], {"fast": 6}, 1.0, 4) == 3.0


# --- over time -------------------------------------------------------------------------------------


def test_series_counts_ends_and_sums_losses() -> None:
    found = record(
        sends=[send("a"), send("b"), send("c", ready=102.5), send("d", ready=500.0)],
        runs=[run("a", 100.1, 100.5), run("b", 100.1, 102.9)],
    )
    shown = measure.series(found, 100.0, 104.0)
    assert list(shown.done) == [1, 0, 1, 0]
    assert list(shown.lost) == [0, 0, 1, 2]
