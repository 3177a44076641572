from __future__ import annotations

from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("days", "percent"),
    [(-1, 0), (0, 70), (1, 50), (2, 50), (3, 30), (7, 30), (8, 20), (14, 20), (15, 10), (30, 10)],
)
def test_discount_of_a_batch_by_its_days_to_expiry(
    pricing: ModuleType, days: int, percent: int
) -> None:
    assert pricing.discount_percent(days) == percent


def test_a_batch_that_keeps_longer_than_the_last_tier_has_no_discount(pricing: ModuleType) -> None:
    assert pricing.discount_percent(pricing.TIERS[-1][0] + 1) == 0


def test_discount_never_falls_as_the_date_comes_nearer(pricing: ModuleType) -> None:
    percents = [pricing.discount_percent(days) for days in range(60)]
    assert percents == sorted(percents, reverse=True)


def test_table_ends_at_the_threshold(pricing: ModuleType) -> None:
    assert pricing.discount_table(3) == [(0, 70), (1, 50), (2, 50), (3, 30)]


def test_table_holds_nothing_without_a_discount(pricing: ModuleType) -> None:
    assert pricing.discount_table(365) == pricing.discount_table(30)


@pytest.mark.parametrize("threshold", [-1, 0, 366])
def test_threshold_out_of_bounds_is_refused(pricing: ModuleType, threshold: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 365, got {threshold}"):
        pricing.discount_table(threshold)
