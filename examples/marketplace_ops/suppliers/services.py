"""The work itself, without Celery. Each function is one transaction, and can be repeated."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Q

from core import sources
from core.running import SourceUnavailable
from suppliers.models import Product, Stock, Supplier, SupplierSync

SOURCES = Path(__file__).resolve().parent / "sources"
# A product's fields as the supplier has them.
FIELDS = ("name", "description", "cost")


@dataclass(frozen=True)
class Offer:
    """A product as its supplier lists it."""

    sku: str
    name: str
    description: str
    cost: Decimal
    quantity: int


def offers(supplier: Supplier) -> tuple[str, dict[str, Offer]]:
    """What a supplier lists, by SKU, and a digest of all of it."""
    content = sources.read(SOURCES, supplier.code, "products")
    try:
        found = [_offer(item) for item in content]
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SourceUnavailable(f"{supplier.code}-products.json: {error!r}") from error
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return digest, {offer.sku: offer for offer in found}


def active_suppliers() -> list[int]:
    """The primary keys of all active suppliers."""
    return list(Supplier.objects.filter(is_active=True).values_list("pk", flat=True))


@transaction.atomic
def sync_products(
    supplier_id: int, now: datetime, full: bool = False, task_id: str = ""
) -> dict[str, Any]:
    """Bring a supplier's products and stock to what it lists; with `full` even if the list has not changed."""
    # Two at once for one supplier would both create what is new.
    supplier = Supplier.objects.select_for_update().get(pk=supplier_id)
    digest, listed = offers(supplier)
    skipped = digest == supplier.digest and not full
    done = {"created": 0, "updated": 0, "retired": 0}
    if not skipped:
        done = _write(supplier, listed, now)
    supplier.digest, supplier.synced_at = digest, now
    supplier.save(update_fields=["digest", "synced_at"])
    values: dict[str, Any] = {"synced_at": now, "full": full, "skipped": skipped, **done}
    if task_id:
        # The second time finds nothing to do, and the row keeps what the first one did.
        SupplierSync.objects.get_or_create(supplier=supplier, task_id=task_id, defaults=values)
    else:
        SupplierSync.objects.create(supplier=supplier, **values)
    return {"supplier": supplier.code, "skipped": skipped, **done}


@transaction.atomic
def update_stock(supplier_id: int, now: datetime) -> int:
    """Bring the stock of a supplier's products to what it lists; how many differed."""
    supplier = Supplier.objects.select_for_update().get(pk=supplier_id)
    _, listed = offers(supplier)
    products = Product.objects.filter(supplier=supplier).select_related("stock")
    return _write_stock(list(products), listed, now)


@transaction.atomic
def try_connection(supplier_id: int, now: datetime) -> dict[str, Any]:
    """Ask a supplier's interface, and write down whether it answers."""
    supplier = Supplier.objects.select_for_update().get(pk=supplier_id)
    try:
        _, listed = offers(supplier)
        ok, text = True, f"{len(listed)} products"
    except SourceUnavailable as error:
        ok, text = False, str(error)[:200]
    supplier.connection_ok, supplier.connection_text, supplier.connection_at = ok, text, now
    supplier.save(update_fields=["connection_ok", "connection_text", "connection_at"])
    return {"supplier": supplier.code, "ok": ok, "text": text}


@transaction.atomic
def clean_up(before: datetime) -> dict[str, int]:
    """Delete older records of synchronisations, and products that were retired earlier and never sold."""
    syncs, _ = SupplierSync.objects.filter(synced_at__lt=before).delete()
    unused = Product.objects.filter(
        Q(retired_at__lt=before), listings__isnull=True, order_lines__isnull=True
    )
    keys = list(unused.values_list("pk", flat=True))
    Product.objects.filter(pk__in=keys).delete()
    return {"syncs": syncs, "products": len(keys)}


def _write(supplier: Supplier, listed: dict[str, Offer], now: datetime) -> dict[str, int]:
    known = {
        product.sku: product
        for product in Product.objects.filter(supplier=supplier).select_related("stock")
    }
    new = [
        Product(
            supplier=supplier,
            sku=offer.sku,
            updated_at=now,
            **{field: getattr(offer, field) for field in FIELDS},
        )
        for sku, offer in listed.items()
        if sku not in known
    ]
    changed = []
    for sku, product in known.items():
        offer = listed.get(sku)
        if offer and (product.retired_at or any(_differ(product, offer))):
            for field in FIELDS:
                setattr(product, field, getattr(offer, field))
            product.updated_at, product.retired_at = now, None
            changed.append(product)
    gone = [sku for sku, product in known.items() if sku not in listed and not product.retired_at]
    Product.objects.bulk_create(new)
    Product.objects.bulk_update(changed, [*FIELDS, "updated_at", "retired_at"])
    Product.objects.filter(sku__in=gone).update(retired_at=now, updated_at=now)
    _write_stock([*known.values(), *new], listed, now)
    return {"created": len(new), "updated": len(changed), "retired": len(gone)}


def _write_stock(products: list[Product], listed: dict[str, Offer], now: datetime) -> int:
    wanted = []
    for product in products:
        offer = listed.get(product.sku)
        # What is no longer listed can't be had.
        quantity = offer.quantity if offer else 0
        if not hasattr(product, "stock") or product.stock.quantity != quantity:
            wanted.append(Stock(product=product, quantity=quantity, counted_at=now))
    Stock.objects.bulk_create(
        wanted,
        update_conflicts=True,
        unique_fields=["product"],
        update_fields=["quantity", "counted_at"],
    )
    return len(wanted)


def _differ(product: Product, offer: Offer) -> list[bool]:
    return [getattr(product, field) != getattr(offer, field) for field in FIELDS]


def _offer(item: dict[str, Any]) -> Offer:
    cost, quantity = Decimal(item["cost"]).quantize(Decimal("0.01")), int(item["quantity"])
    if cost < 0 or quantity < 0:
        raise ValueError(f"{item['sku']} has a negative cost or quantity")
    return Offer(str(item["sku"]), str(item["name"]), str(item["description"]), cost, quantity)
