"""What the scheduled tasks do, one function for each; tasks.py says how Celery runs them.

Each stage takes the rows that the previous one has left for it, in one transaction, and does nothing if there is
nothing new. If it runs twice, it leaves the same rows. All stages lock the rows that they work on in the same order,
so two runs at the same time have the same effect as one after the other.
"""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import timedelta
from decimal import ROUND_UP, Decimal, InvalidOperation

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from . import pictures, sources
from .models import Listing, PriceListEntry, Product, ProductImage, ScrapedItem

log = logging.getLogger(__name__)

CENT = Decimal("0.01")

# Limits of the columns. PostgreSQL refuses more, and rolls back the whole transaction.
MAX_PRICE = Decimal("99999999.99")
MAX_STOCK = 2**31 - 1
MAX_CODE = 40
MAX_CATEGORY = 60

# Percent on the supplier's price, by category, for products that the price list does not name.
MARGINS = {"Portátiles": 14, "Monitores": 18, "Accesorios": 40}
USUAL_MARGIN = 22

SOLD_ON_MERCADO_LIBRE = frozenset(
    {
        *("Accesorios", "Almacenamiento", "Energía", "Impresoras", "Memorias", "Monitores"),
        *("Portátiles", "Redes", "Tablets"),
    }
)
LEAST_STOCK = 3
LEAST_MARGIN = 10  # percent; without Mercado Libre's fee


# --- run_scrape_tecnomega ------------------------------------------------------------------------


def scrape() -> dict[str, str | int]:
    """Store the supplier's site of this hour, with unchanged texts.

    A line whose code can't belong to a product is left out and logged.
    """
    slot = timezone.now().replace(minute=0, second=0, microsecond=0)
    lines = sorted(sources.tecnomega(slot), key=lambda line: line.code)
    if odd := [line for line in lines if len(line.code) > MAX_CODE]:
        log.warning("left out %d lines with a code of more than %d characters", len(odd), MAX_CODE)
    items = [
        ScrapedItem(
            slot=slot,
            code=_storable(line.code),
            name=_storable(line.name),
            category=_storable(line.category),
            price=_storable(line.price),
            stock=_storable(line.stock),
        )
        for line in lines
        if len(line.code) <= MAX_CODE
    ]
    # A line that is already there stays as it is, with what has become of it.
    ScrapedItem.objects.bulk_create(items, ignore_conflicts=True)
    return {"slot": slot.isoformat(), "items": len(items)}


def _storable(text: str) -> str:
    """Return a text without what JSON allows and PostgreSQL can't store: NUL, and half a character."""
    return text.encode(errors="replace").decode().replace("\0", "?")


# --- run_normalize_products ----------------------------------------------------------------------


@transaction.atomic
def normalize() -> dict[str, int]:
    """Make products from what was scraped, the older hours first; note what can't be read."""
    now = timezone.now()
    pending = ScrapedItem.objects.filter(normalized_at=None).order_by("slot", "code")
    counts = {"created": 0, "updated": 0, "unchanged": 0, "unreadable": 0}
    for item in pending.select_for_update():
        item.normalized_at = now
        try:
            values = _normal(item)
        except ValueError as problem:
            item.problem = str(problem)
            counts["unreadable"] += 1
        else:
            counts[_store(item.code, values)] += 1
        item.save(update_fields=["normalized_at", "problem"])
    return counts


def _normal(item: ScrapedItem) -> dict[str, str | int | Decimal]:
    """Return a product's values; raise ValueError if they can't be read or stored."""
    return {
        "name": " ".join(item.name.split())[:200],
        "category": _category(item.category),
        "cost": read_price(item.price),
        "stock": read_stock(item.stock),
    }


def _store(sku: str, values: dict[str, str | int | Decimal]) -> str:
    product = Product.objects.select_for_update().filter(sku=sku).first()
    if product is None:
        Product.objects.create(sku=sku, normalized_at=timezone.now(), **values)
        return "created"
    changed = [name for name, value in values.items() if getattr(product, name) != value]
    if not changed:
        return "unchanged"
    for name in changed:
        setattr(product, name, values[name])
    # Only now does the next stage have something to do.
    product.normalized_at = timezone.now()
    product.save(update_fields=[*changed, "normalized_at"])
    return "updated"


def read_price(text: str) -> Decimal:
    """Return `$ 1.234,56` as a number; raise ValueError if it is not one, or too large."""
    found = re.fullmatch(r"\$ ?(\d{1,3}(?:\.\d{3})*|\d+),(\d{2})", text.strip())
    if not found:
        raise ValueError(f"the price is no number: {text[:40]!r}")
    price = Decimal(f"{found[1].replace('.', '')}.{found[2]}")
    if price > MAX_PRICE:
        raise ValueError(f"the price is above {MAX_PRICE}: {text[:40]!r}")
    return price


def read_stock(text: str) -> int:
    """Return `12`, `Más de 20` or `Agotado` as a number, the lowest possible one; otherwise raise ValueError."""
    found = re.fullmatch(r"(?:más de )?(\d+)", text.strip().lower())
    if found:
        # More digits than Python reads also raise ValueError.
        if (stock := int(found[1])) > MAX_STOCK:
            raise ValueError(f"the stock is above {MAX_STOCK}: {text[:40]!r}")
        return stock
    if text.strip().lower() == "agotado":
        return 0
    raise ValueError(f"the stock is no number: {text[:40]!r}")


def _category(text: str) -> str:
    name = " ".join(text.split()).capitalize()
    if len(name) > MAX_CATEGORY:
        raise ValueError(f"the category has more than {MAX_CATEGORY} characters: {name[:40]!r}")
    return {"Portatiles": "Portátiles"}.get(name, name)


# --- run_enrich_products -------------------------------------------------------------------------


@transaction.atomic
def enrich() -> dict[str, int]:
    """Add what the API of specifications knows, and a price if the shop has not set one."""
    known = sources.specifications()
    listed = dict(PriceListEntry.objects.values_list("sku", "price"))
    fresh = Q(enriched_at=None) | Q(enriched_at__lt=F("normalized_at"))
    products = Product.objects.exclude(normalized_at=None).filter(fresh).order_by("sku")
    counts = {"enriched": 0, "without_specification": 0}
    for product in products.select_for_update():
        specification = known.get(product.sku)
        if specification is None:
            counts["without_specification"] += 1
        else:
            product.brand = specification.brand
            product.gtin = specification.gtin
            product.weight_grams = specification.weight_grams
        product.price = listed.get(product.sku, product.price)
        # 0 is a price that was set on purpose.
        if product.price is None:
            product.price = calculated_price(product)
        product.enriched_at = timezone.now()
        product.save(update_fields=["brand", "gtin", "weight_grams", "price", "enriched_at"])
        counts["enriched"] += 1
    return counts


def calculated_price(product: Product) -> Decimal | None:
    """Return the supplier's price with the category's margin, rounded up to ten cents; None if it is too large."""
    if product.cost is None:
        return None
    margin = MARGINS.get(product.category, USUAL_MARGIN)
    price = (product.cost * (100 + margin) / 100).quantize(Decimal("0.1"), ROUND_UP).quantize(CENT)
    return price if price <= MAX_PRICE else None


# --- run_ml_eligibility_update -------------------------------------------------------------------


@transaction.atomic
def update_eligibility() -> dict[str, int]:
    """Decide again which products can be offered in Mercado Libre; only changes are written."""
    counts = {"eligible": 0, "not_eligible": 0, "changed": 0}
    # The lock on the products ensures that each has only one listing.
    for product in Product.objects.order_by("sku").select_for_update():
        reasons = obstacles(product)
        listing = Listing.objects.filter(product=product).first() or Listing(product=product)
        if listing.pk is None or listing.reasons != reasons:
            listing.is_eligible, listing.reasons = not reasons, reasons
            listing.decided_at = timezone.now()
            listing.save()
            counts["changed"] += 1
        counts["not_eligible" if reasons else "eligible"] += 1
    return counts


def obstacles(product: Product) -> list[str]:
    """Return the reasons against offering a product; nothing if it can be offered."""
    found = []
    if product.category not in SOLD_ON_MERCADO_LIBRE:
        found.append("category is not sold there")
    if not product.brand or not product.gtin:
        found.append("no brand or GTIN")
    if product.stock < LEAST_STOCK:
        found.append(f"fewer than {LEAST_STOCK} in stock")
    if product.price is None or product.cost is None:
        found.append("no price or cost")
    elif product.price * 100 < product.cost * (100 + LEAST_MARGIN):
        found.append(f"margin below {LEAST_MARGIN} %")
    return found


# --- run_image_fetcher ---------------------------------------------------------------------------


def fetch_images() -> dict[str, int]:
    """Fetch the picture of each eligible product that has none, and make its thumbnail.

    Each has its own transaction, so pictures that were fetched before an interruption stay.
    """
    missing = Product.objects.filter(listing__is_eligible=True, images=None).order_by("sku")
    fetched = 0
    for product_id, sku in list(missing.values_list("id", "sku")):
        content = sources.image(sku)
        rows = pictures.decode(content)
        _, created = ProductImage.objects.get_or_create(
            product_id=product_id,
            position=1,
            defaults={
                "width": len(rows[0]),
                "height": len(rows),
                "sha256": hashlib.sha256(content).hexdigest(),
                "content": content,
                "thumbnail": pictures.encode(pictures.shrink(rows)),
            },
        )
        fetched += created
    return {"fetched": fetched}


# --- run_sync_price_list -------------------------------------------------------------------------


@transaction.atomic
def sync_price_list() -> dict[str, int]:
    """Take over the price list: its entries unchanged, and its prices for the products that it names."""
    prices = sources.price_list()
    entries = [PriceListEntry(sku=sku, price=price) for sku, price in sorted(prices.items())]
    PriceListEntry.objects.bulk_create(
        entries, update_conflicts=True, unique_fields=["sku"], update_fields=["price"]
    )
    removed, _ = PriceListEntry.objects.exclude(sku__in=prices).delete()
    updated = 0
    for product in Product.objects.filter(sku__in=prices).order_by("sku").select_for_update():
        if product.price != prices[product.sku]:
            product.price = prices[product.sku]
            product.save(update_fields=["price"])
            updated += 1
    return {"entries": len(entries), "removed": removed, "updated": updated}


# --- run_prune_scrapes ---------------------------------------------------------------------------


def prune_scrapes() -> dict[str, int]:
    """Delete scrapes that are older than CATALOG_SCRAPE_RETENTION_DAYS."""
    oldest = timezone.now() - timedelta(days=settings.CATALOG_SCRAPE_RETENTION_DAYS)
    deleted, _ = ScrapedItem.objects.filter(slot__lt=oldest).delete()
    return {"deleted": deleted}


# --- update_product_price ------------------------------------------------------------------------


def money(value: float | str | Decimal) -> Decimal:
    """Return a price in whole cents; raise ValueError if it is not one."""
    try:
        amount = Decimal(str(value))
        # Infinite, negative, or too large for the column once it is rounded.
        if not amount.is_finite() or amount < 0 or (price := amount.quantize(CENT)) > MAX_PRICE:
            raise ValueError(f"no price: {str(value)[:40]}")
        return price
    except InvalidOperation as error:
        raise ValueError(f"no price: {str(value)[:40]!r}") from error
