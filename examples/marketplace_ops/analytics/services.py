"""The work itself, without Celery. Each function makes a day's reports again from what is stored."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.db.models import Count, F, Q, Sum

from analytics.models import (
    DailyReport,
    MarketplacePerformance,
    Profitability,
    SupplierPerformance,
)
from core.running import bounds
from marketplaces.models import Listing, Marketplace, Order, OrderLine
from suppliers.models import Product, Supplier, SupplierSync

CENT = Decimal("0.01")
ZERO = Decimal(0)


@transaction.atomic
def daily(day: date, now: datetime) -> None:
    """Count a day's orders."""
    values = {**_orders(day), **_sold(_lines(day)), "made_at": now}
    DailyReport.objects.update_or_create(day=day, defaults=values)


@transaction.atomic
def supplier_performance(supplier_id: int | None, day: date, now: datetime) -> int:
    """Count a day of one supplier, or of each; of how many."""
    begin, end = bounds(day)
    suppliers = _chosen(Supplier, supplier_id)
    for supplier in suppliers:
        products = Product.objects.filter(supplier=supplier, retired_at=None)
        syncs = SupplierSync.objects.filter(
            supplier=supplier, synced_at__gte=begin, synced_at__lt=end
        )
        values = {
            "syncs": syncs.count(),
            "products": products.count(),
            "in_stock": products.filter(stock__quantity__gt=0).count(),
            **_sold(_lines(day).filter(product__supplier=supplier)),
            "made_at": now,
        }
        SupplierPerformance.objects.update_or_create(day=day, supplier=supplier, defaults=values)
    return len(suppliers)


@transaction.atomic
def marketplace_performance(marketplace_id: int | None, day: date, now: datetime) -> int:
    """Count a day of one marketplace, or of each; of how many."""
    marketplaces = _chosen(Marketplace, marketplace_id)
    for marketplace in marketplaces:
        values = {
            "listings": Listing.objects.filter(marketplace=marketplace, status="active").count(),
            **_orders(day, marketplace=marketplace),
            **_sold(_lines(day).filter(order__marketplace=marketplace)),
            "made_at": now,
        }
        MarketplacePerformance.objects.update_or_create(
            day=day, marketplace=marketplace, defaults=values
        )
    return len(marketplaces)


@transaction.atomic
def profitability(day: date, now: datetime) -> dict[str, Any]:
    """What a day's sales of each product left; how many products, and the sum."""
    sums: dict[int, dict[str, Any]] = defaultdict(
        lambda: {"units": 0, "revenue": ZERO, "cost": ZERO, "commission": ZERO}
    )
    for line in _lines(day).select_related("product", "order__marketplace"):
        found = sums[line.product_id]
        revenue = line.quantity * line.price
        found["units"] += line.quantity
        found["revenue"] += revenue
        found["cost"] += line.quantity * line.product.cost
        found["commission"] += revenue * line.order.marketplace.commission_percent / 100
    rows = []
    for product_id, found in sums.items():
        found["commission"] = found["commission"].quantize(CENT)
        profit = found["revenue"] - found["cost"] - found["commission"]
        rows.append(
            Profitability(day=day, product_id=product_id, profit=profit, made_at=now, **found)
        )
    Profitability.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["day", "product"],
        update_fields=["units", "revenue", "cost", "commission", "profit", "made_at"],
    )
    return {"products": len(rows), "profit": str(sum((row.profit for row in rows), ZERO))}


def _lines(day: date) -> Any:
    begin, end = bounds(day)
    return OrderLine.objects.filter(order__ordered_at__gte=begin, order__ordered_at__lt=end)


def _orders(day: date, **of: Any) -> dict[str, int]:
    begin, end = bounds(day)
    return Order.objects.filter(ordered_at__gte=begin, ordered_at__lt=end, **of).aggregate(
        orders=Count("pk"), fulfilled=Count("pk", filter=Q(status=Order.Status.FULFILLED))
    )


def _sold(lines: Any) -> dict[str, Any]:
    found = lines.aggregate(units=Sum("quantity"), revenue=Sum(F("quantity") * F("price")))
    return {
        "units": found["units"] or 0,
        # SQLite sums amounts as numbers without a fixed point.
        "revenue": Decimal(found["revenue"] or 0).quantize(CENT),
    }


def _chosen(model: Any, key: int | None) -> list[Any]:
    """The one of this key, or all; one that is not there raises DoesNotExist."""
    return list(model.objects.all()) if key is None else [model.objects.get(pk=key)]
