"""Stand-ins for the supplier's site, the APIs and the price list: files in this directory, without the internet.

Their content only depends on the file and the hour, so a task that runs twice finds the same.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings

from . import pictures


class SourceUnavailable(Exception):
    """A source doesn't answer, or with something else than it should; it may the next time."""


@dataclass(frozen=True)
class Scraped:
    """A line of the supplier's site: texts as a person would read them there."""

    code: str
    name: str
    category: str
    price: str
    stock: str


@dataclass(frozen=True)
class Specification:
    """What the API of specifications knows of a product."""

    brand: str
    gtin: str
    weight_grams: int


def tecnomega(slot: datetime) -> list[Scraped]:
    """Return the supplier's site in an hour: prices move by up to 3 %, stock comes and goes."""
    try:
        return [_scraped(item, slot) for item in json.loads(_read("tecnomega.json"))]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceUnavailable(f"tecnomega.json can't be read: {error}") from error


def specifications() -> dict[str, Specification]:
    """SKU -> specification, for those that the API knows."""
    try:
        content = json.loads(_read("specifications.json"))
        return {sku: Specification(**fields) for sku, fields in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise SourceUnavailable(f"specifications.json can't be read: {error}") from error


def price_list() -> dict[str, Decimal]:
    """SKU -> price, as the shop has set it by hand."""
    try:
        rows = csv.DictReader(_read("price_list.csv").splitlines())
        return {row["sku"]: Decimal(row["price"]) for row in rows}
    except (KeyError, TypeError, ArithmeticError) as error:
        raise SourceUnavailable(f"price_list.csv can't be read: {error!r}") from error


def image(sku: str) -> bytes:
    """A product's picture as a PNG: stripes in colours that follow from its SKU."""
    digest = hashlib.sha256(sku.encode()).digest()
    colours = [tuple(digest[i : i + 3]) for i in range(0, 12, 3)]
    size = pictures.SIZE
    return pictures.encode([[colours[4 * x // size] for x in range(size)] for _ in range(size)])


def _read(name: str) -> str:
    path = settings.CATALOG_SOURCES / name
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceUnavailable(f"{path} can't be read: {error}") from error


def _scraped(item: dict[str, Any], slot: datetime) -> Scraped:
    # The hour as a number of seconds is the same in every zone.
    chance = hashlib.sha256(f"{item['code']} {slot.timestamp():.0f}".encode()).digest()
    price = item["price"]
    if price is None:
        shown = "Consultar"
    else:
        today = (Decimal(price) * (100 + chance[0] % 7 - 3) / 100).quantize(Decimal("0.01"))
        # 1,234.56 as the site writes it: $ 1.234,56
        shown = "$ " + f"{today:,}".translate(str.maketrans(",.", ".,"))
    left = item["stock"] - chance[1] % 4 if item["stock"] else 0
    stock = "Agotado" if left <= 0 else f"Más de {left // 10 * 10}" if left > 20 else str(left)
    return Scraped(item["code"], item["name"], item["category"], shown, stock)
