from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from scripts.delivery import bench
from scripts.delivery.bench_setup import Side
from scripts.delivery.figures import FigureRow, Goal, percentile, ratios, table
from scripts.delivery.load import Slice

ROOT = Path(__file__).resolve().parents[3]
BENCHES = ROOT / ".state" / "bench"


def test_goals_have_a_direction() -> None:
    assert Goal(1.2, at_least=True).is_met(1.2)
    assert not Goal(1.2, at_least=True).is_met(1.19)
    assert Goal(1.1).is_met(1.1)
    assert not Goal(1.1).is_met(1.11)


def test_both_sides_are_compared_within_a_round() -> None:
    """A machine that is busy for some rounds slows down both sides, which does not change their ratio."""
    assert ratios([130, 13, 26], [100, 10, 20]) == pytest.approx([1.3, 1.3, 1.3])
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_row_is_judged_by_its_median_and_shows_its_spread() -> None:
    missed = FigureRow("tasks a second", "100", "110", [1.1, 1.5, 1.0], Goal(1.2, at_least=True))
    assert str(missed).endswith("| 1.10 (1.00 to 1.50) | 1.2 at least: **missed** |")
    met = FigureRow("p99", "9.0 ms", "8.0 ms", [8.0], Goal(10))
    assert str(met).endswith("| 8.00 | 10 at most: met |")
    assert table([missed, met], "ratio").count("\n") == 3


def test_percentile_is_one_of_the_values() -> None:
    values = [float(one) for one in range(1, 101)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([7.0], 99) == 7.0


def test_full_load_is_reported_as_rate_and_processor_time() -> None:
    found = {
        "stock": [Slice(1000, 1.0, 0.2, 0.0), Slice(1000, 2.0, 0.2, 0.5)],
        "atomic": [Slice(1000, 0.5, 0.1, 0.3), Slice(1000, 1.0, 0.1, 0.3)],
    }
    rate = bench.row_of("load", found)
    assert rate.judged == [2.0, 2.0]
    redis, _ = bench.costs_of("load", found)
    assert (redis.stock, redis.atomic, redis.value) == ("200 µs", "100 µs", 0.5)


def test_latency_is_judged_by_its_median_and_its_99th_percentile() -> None:
    found = {"stock": [0.004] * 100, "atomic": [0.002] * 98 + [0.020] * 2}
    middle, late = bench.latency_rows("idle", found)
    assert middle.judged == pytest.approx([0.5] * 10)
    assert late.value == pytest.approx(20.0)
    assert "missed" in str(late)


def test_latency_in_parts_distinguishes_a_busy_moment_from_a_slow_side() -> None:
    busy = {"stock": [0.004] * 50 + [0.040] * 50, "atomic": [0.002] * 50 + [0.020] * 50}
    assert bench.latency_rows("idle", busy)[0].judged == pytest.approx([0.5] * 10)
    assert bench.stretches([1.0, 2.0]) == [1.0, 2.0]


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["speed"])
    assert "no part speed; there are throughput, workers" in capsys.readouterr().err


@pytest.mark.parametrize("take", ["stock", "atomic"])
@pytest.mark.parametrize("user", ["worker", "producer"])
def test_each_side_has_the_settings_that_the_roles_give(
    take: str, user: str, tmp_path: Path
) -> None:
    side = Side(take, tmp_path, 6379, 6380, {user: "secret"}, MagicMock())
    settings = side.settings(user)
    assert f"{user}:secret@127.0.0.1:6379" in settings["celery"]["broker_url"]
    assert ("delivery" in settings) is (user == "worker")


@pytest.mark.long
def test_it_runs_against_real_servers_and_leaves_nothing() -> None:
    before = {*BENCHES.glob("delivery-*")}  # of runs that were killed
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench_delivery", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in bench.PARTS:
        assert f"### {name}\n" in done.stdout
    for what in ("tasks a second", "p99", "processor time of Redis", "commands a second"):
        assert what in done.stdout
    (added,) = re.findall(r"the history adds \| (\d+\.\d) µs", done.stdout)
    assert float(added) > 0
    assert {*BENCHES.glob("delivery-*")} <= before
