"""The work itself, without Celery. Each function is one transaction, and can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from core import sources
from core.running import SourceUnavailable
from marketplaces.models import Listing, Marketplace, Order, OrderLine
from suppliers.models import Product

SOURCES = Path(__file__).resolve().parent / "sources"
# A marketplace's interface gives the orders of yesterday and today.
DAYS = (1, 0)
_FAULTS = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Offered:
    """A product as a marketplace lists it."""

    sku: str
    title: str
    price: Decimal


@dataclass(frozen=True)
class Ordered:
    """An order as a marketplace gives it: what of each SKU."""

    number: str
    ordered_at: datetime
    lines: dict[str, tuple[int, Decimal]]


def listed(marketplace: Marketplace) -> list[Offered]:
    """What a marketplace lists."""
    content = sources.read(SOURCES, marketplace.code, "listings")
    try:
        return [Offered(item["sku"], item["title"], Decimal(item["price"])) for item in content]
    except _FAULTS as error:
        raise SourceUnavailable(f"{marketplace.code}-listings.json: {error!r}") from error


def ordered(marketplace: Marketplace, now: datetime) -> list[Ordered]:
    """The orders of yesterday and of today until now. The file says what is ordered on every day, and at what time."""
    content = sources.read(SOURCES, marketplace.code, "orders")
    today = now.astimezone(UTC).date()
    days = [today - timedelta(days=days) for days in DAYS]
    try:
        found = [order for day in days for order in _of_day(marketplace.code, content, day)]
    except _FAULTS as error:
        raise SourceUnavailable(f"{marketplace.code}-orders.json: {error!r}") from error
    return [order for order in found if order.ordered_at <= now]


def active_marketplaces() -> list[int]:
    """The primary keys of all active marketplaces."""
    return list(Marketplace.objects.filter(is_active=True).values_list("pk", flat=True))


@transaction.atomic
def sync_listings(marketplace_id: int, now: datetime) -> dict[str, Any]:
    """Update our listings on a marketplace to what it shows, without those of products that we don't have."""
    marketplace = Marketplace.objects.select_for_update().get(pk=marketplace_id)
    shown = listed(marketplace)
    products = dict(Product.objects.values_list("sku", "pk"))
    rows = [
        Listing(
            marketplace=marketplace,
            product_id=products[item.sku],
            title=item.title,
            price=item.price,
        )
        for item in shown
        if item.sku in products
    ]
    known = Listing.objects.filter(marketplace=marketplace).count()
    Listing.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["marketplace", "product"],
        update_fields=["title", "price"],
    )
    created = Listing.objects.filter(marketplace=marketplace).count() - known
    _stamp(marketplace, "listings_at", now)
    return {
        "marketplace": marketplace.code,
        "created": created,
        "listings": len(rows),
        "unknown": len(shown) - len(rows),
    }


@transaction.atomic
def sync_orders(marketplace_id: int, now: datetime) -> dict[str, Any]:
    """Take in the orders that we don't have yet. One with a product that we don't know waits until we do."""
    marketplace = Marketplace.objects.select_for_update().get(pk=marketplace_id)
    found = ordered(marketplace, now)
    known = set(
        Order.objects.filter(
            marketplace=marketplace, number__in=[order.number for order in found]
        ).values_list("number", flat=True)
    )
    products = dict(Product.objects.values_list("sku", "pk"))
    new = [order for order in found if order.number not in known]
    taken = [order for order in new if set(order.lines) <= set(products)]
    rows = Order.objects.bulk_create(
        Order(
            marketplace=marketplace,
            number=order.number,
            ordered_at=order.ordered_at,
            received_at=now,
        )
        for order in taken
    )
    OrderLine.objects.bulk_create(
        OrderLine(order=row, product_id=products[sku], quantity=quantity, price=price)
        for row, order in zip(rows, taken, strict=True)
        for sku, (quantity, price) in order.lines.items()
    )
    _stamp(marketplace, "orders_at", now)
    return {
        "marketplace": marketplace.code,
        "created": len(taken),
        "waiting": len(new) - len(taken),
    }


@transaction.atomic
def sync_inventory(marketplace_id: int, now: datetime) -> int:
    """Tell a marketplace the stock of its listings if it was told something else; return how many there are."""
    marketplace = Marketplace.objects.select_for_update().get(pk=marketplace_id)
    differing = (
        Listing.objects.filter(marketplace=marketplace)
        .annotate(stock=Coalesce("product__stock__quantity", 0))
        .filter(Q(quantity=None) | ~Q(quantity=F("stock")))
    )
    rows = list(differing)
    for row in rows:
        row.quantity, row.quantity_at = row.stock, now
    Listing.objects.bulk_update(rows, ["quantity", "quantity_at"])
    _stamp(marketplace, "inventory_at", now)
    return len(rows)


@transaction.atomic
def fulfil(order_id: int, tracking_number: str, now: datetime) -> bool:
    """Mark an order as fulfilled; whether it was not yet. Raises Order.DoesNotExist."""
    order = Order.objects.select_for_update().get(pk=order_id)
    if order.status == Order.Status.FULFILLED:
        return False
    order.status, order.fulfilled_at = Order.Status.FULFILLED, now
    order.tracking_number = tracking_number
    order.save(update_fields=["status", "fulfilled_at", "tracking_number"])
    return True


def _stamp(marketplace: Marketplace, field: str, now: datetime) -> None:
    setattr(marketplace, field, now)
    marketplace.save(update_fields=[field])


def _of_day(code: str, content: Any, day: date) -> Iterator[Ordered]:
    for item in content:
        moment = datetime.combine(day, time.fromisoformat(item["time"]), tzinfo=UTC)
        lines = {
            line["sku"]: (int(line["quantity"]), Decimal(line["price"])) for line in item["lines"]
        }
        yield Ordered(f"{code}-{day:%Y%m%d}-{item['number']}", moment, lines)
