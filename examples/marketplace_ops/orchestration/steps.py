"""What a step of a workflow can be. Each is called within the execution's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from django.db.models import F

from marketplaces.models import Listing
from suppliers.models import Product


class StepError(Exception):
    """A step can't be done; the text says why."""


def reprice_listings(step: Mapping[str, Any]) -> dict[str, Any]:
    """Set each listing's price to its product's cost and `markup_percent` of it."""
    markup = step.get("markup_percent")
    if not isinstance(markup, int) or isinstance(markup, bool) or not 0 <= markup <= 1000:
        raise StepError(
            f"markup_percent is {markup!r}, and has to be a whole number from 0 to 1000"
        )
    changed = []
    for listing in Listing.objects.select_related("product"):
        price = (listing.product.cost * (100 + markup) / 100).quantize(Decimal("0.01"))
        if price != listing.price:
            listing.price = price
            changed.append(listing)
    Listing.objects.bulk_update(changed, ["price"])
    return {"repriced": len(changed)}


def pause_empty_listings(_: Mapping[str, Any]) -> dict[str, Any]:
    """Pause the listings whose product is not in stock, and resume those whose product is."""
    empty = Listing.objects.exclude(product__stock__quantity__gt=0)
    paused = empty.filter(status=Listing.Status.ACTIVE).update(status=Listing.Status.PAUSED)
    taken_up = Listing.objects.filter(
        status=Listing.Status.PAUSED, product__stock__quantity__gt=0
    ).update(status=Listing.Status.ACTIVE)
    return {"paused": paused, "taken_up": taken_up}


def require_products(step: Mapping[str, Any]) -> dict[str, Any]:
    """Continue only if there are at least `minimum` products that are not retired."""
    found = Product.objects.filter(retired_at=None).count()
    minimum = step.get("minimum", 1)
    if not isinstance(minimum, int) or found < minimum:
        raise StepError(f"there are {found} products, and {minimum} are asked for")
    return {"products": found}


def require_margin(_: Mapping[str, Any]) -> dict[str, Any]:
    """Continue only if nothing is listed below its cost."""
    below = Listing.objects.filter(price__lt=F("product__cost")).count()
    if below:
        raise StepError(f"{below} listings are below their product's cost")
    return {"below_cost": 0}


STEPS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    step.__name__: step
    for step in (reprice_listings, pause_empty_listings, require_products, require_margin)
}


def run(steps: Any) -> list[dict[str, Any]]:
    """Do all steps in their order; what each returned. Raises StepError at the first that can't be done."""
    if not isinstance(steps, list):
        raise StepError("the workflow's steps are no list")
    results = []
    for number, step in enumerate(steps, 1):
        name = step.get("step") if isinstance(step, dict) else None
        if name not in STEPS:
            raise StepError(f"step {number}: {name!r} is none of {', '.join(sorted(STEPS))}")
        try:
            results.append({"step": name, **STEPS[name](step)})
        except StepError as error:
            raise StepError(f"step {number}, {name}: {error}") from error
    return results
