"""The discount rule: the nearer its expiry date, the cheaper a batch. No input or output."""

from __future__ import annotations

MAX_DAYS_THRESHOLD = 365

# (days to expiry up to and including, percent off), nearest first.
TIERS = ((0, 70), (2, 50), (7, 30), (14, 20), (30, 10))


def discount_percent(days_to_expiry: int) -> int:
    """Percent off the base price of a batch that expires in `days_to_expiry` days.

    Today is 0. An expired batch (a negative number) is not for sale, so that it gets none.
    """
    if days_to_expiry < 0:
        return 0
    return next((percent for days, percent in TIERS if days_to_expiry <= days), 0)


def discount_table(days_threshold: int) -> list[tuple[int, int]]:
    """Return all (days to expiry, percent off) with a discount, for batches within the threshold.

    The database joins this to its batches, so the rule is only here and not repeated in SQL.

    Raises ValueError if `days_threshold` is not between 1 and MAX_DAYS_THRESHOLD days.
    """
    if not 1 <= days_threshold <= MAX_DAYS_THRESHOLD:
        raise ValueError(
            f"days_threshold must be between 1 and {MAX_DAYS_THRESHOLD}, got {days_threshold}"
        )
    table = ((days, discount_percent(days)) for days in range(days_threshold + 1))
    return [(days, percent) for days, percent in table if percent > 0]
