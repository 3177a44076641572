"""The work on discounts and prices. Each function is one transaction, and can be repeated safely."""

from __future__ import annotations

from typing import Any

from app import db, pricing

# Recomputing and cleaning up touch the same rows in different orders: one at a time, or they deadlock.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('flexiprice.discounts'))"

_RECOMPUTE = """
WITH due AS (
    SELECT b.id AS batch_id, rule.percent, b.expires_on,
           round(p.base_price * (100 - rule.percent) / 100, 2) AS price
      FROM batches AS b
      JOIN products AS p ON p.id = b.product_id
      JOIN unnest(%(days)s::int[], %(percents)s::int[]) AS rule (days, percent)
        ON rule.days = b.expires_on - current_date
     WHERE b.quantity > 0
), written AS (
    INSERT INTO discounts AS d (batch_id, percent, price, valid_until)
    SELECT batch_id, percent, price, expires_on FROM due
    ON CONFLICT (batch_id) WHERE status = 'active' DO UPDATE
       SET percent = excluded.percent, price = excluded.price,
           valid_until = excluded.valid_until, computed_at = now()
     WHERE (d.percent, d.price, d.valid_until)
           IS DISTINCT FROM (excluded.percent, excluded.price, excluded.valid_until)
    RETURNING d.created_at = now() AS is_new
)
SELECT (SELECT count(*) FROM due) AS batches,
       count(*) FILTER (WHERE is_new) AS created,
       count(*) FILTER (WHERE NOT is_new) AS updated
  FROM written
"""

_EXPIRE = """
WITH expired AS (
    UPDATE discounts AS d
       SET status = 'expired', expired_at = now()
      FROM batches AS b
     WHERE b.id = d.batch_id AND d.status = 'active'
       AND (d.valid_until < current_date OR b.quantity = 0)
    RETURNING d.id
)
SELECT count(*) AS expired FROM expired
"""

_SNAPSHOT = """
WITH prices AS (
    SELECT p.id AS product_id, p.base_price, coalesce(min(d.price), p.base_price) AS price,
           date_bin('6 hours', now(), timestamptz '2000-01-01 00:00:00+00') AS slot
      FROM products AS p
      LEFT JOIN batches AS b
        ON b.product_id = p.id AND b.quantity > 0 AND b.expires_on >= current_date
      LEFT JOIN discounts AS d ON d.batch_id = b.id AND d.status = 'active'
     GROUP BY p.id
), written AS (
    INSERT INTO price_history AS h (product_id, slot, base_price, price)
    SELECT product_id, slot, base_price, price FROM prices
    ON CONFLICT (product_id, slot) DO UPDATE
       SET base_price = excluded.base_price, price = excluded.price, recorded_at = now()
     WHERE (h.base_price, h.price) IS DISTINCT FROM (excluded.base_price, excluded.price)
    RETURNING h.product_id
)
SELECT (SELECT count(*) FROM prices) AS products, (SELECT count(*) FROM written) AS changed
"""

_PRODUCTS = """
SELECT p.sku, p.name, p.base_price::float8, coalesce(min(d.price), p.base_price)::float8 AS price,
       count(d.id) AS active_discounts
  FROM products AS p
  LEFT JOIN batches AS b
    ON b.product_id = p.id AND b.quantity > 0 AND b.expires_on >= current_date
  LEFT JOIN discounts AS d ON d.batch_id = b.id AND d.status = 'active'
 GROUP BY p.id
 ORDER BY p.sku
"""

_ACTIVE = """
SELECT p.sku, b.lot, d.percent, d.price::float8, d.valid_until, d.computed_at
  FROM discounts AS d
  JOIN batches AS b ON b.id = d.batch_id
  JOIN products AS p ON p.id = b.product_id
 WHERE d.status = 'active'
 ORDER BY d.valid_until, p.sku, b.lot
"""


def recompute(days_threshold: int) -> dict[str, int]:
    """Recompute the discounts of all batches in stock that expire within `days_threshold` days.

    Gives the number of batches with a discount, and how many of these were created and updated.
    Raises ValueError for a threshold out of bounds.
    """
    table = pricing.discount_table(days_threshold)
    with db.transaction() as connection:
        connection.execute(_ONE_AT_A_TIME)
        row = db.one(
            connection,
            _RECOMPUTE,
            days=[days for days, _ in table],
            percents=[percent for _, percent in table],
        )
    return {"days_threshold": days_threshold, **row}


def expire() -> dict[str, int]:
    """Mark active discounts as expired whose date has passed or whose batch is sold out."""
    with db.transaction() as connection:
        connection.execute(_ONE_AT_A_TIME)
        return db.one(connection, _EXPIRE)


def record_prices() -> dict[str, int]:
    """Record the lowest price of each product for the current slot of six hours (UTC).

    Once more within the slot corrects what changed; it adds no second snapshot.
    """
    with db.transaction() as connection:
        return db.one(connection, _SNAPSHOT)


def products() -> list[dict[str, Any]]:
    """All products with the lowest price of today, ordered by SKU."""
    with db.transaction() as connection:
        return connection.execute(_PRODUCTS).fetchall()


def active() -> list[dict[str, Any]]:
    """All active discounts, those that end first at the head."""
    with db.transaction() as connection:
        return connection.execute(_ACTIVE).fetchall()
