"""Reports: one row for each day and what it is of. Made again, a report takes the place of the one before."""

from __future__ import annotations

from typing import Any

from django.db import models

from marketplaces.models import Marketplace
from suppliers.models import Product, Supplier


def money() -> Any:
    """A column for an amount; sums have more digits than prices."""
    return models.DecimalField(max_digits=14, decimal_places=2)


class DailyReport(models.Model):
    """What was sold on a day."""

    day = models.DateField(unique=True)
    orders = models.PositiveIntegerField()
    fulfilled = models.PositiveIntegerField()
    units = models.PositiveIntegerField()
    revenue = money()
    made_at = models.DateTimeField()

    class Meta:
        ordering = ("-day",)

    def __str__(self) -> str:
        return f"{self.day}: {self.revenue}"


class SupplierPerformance(models.Model):
    """How a supplier did on a day: how often it was synchronised, what it has, what was sold of it."""

    day = models.DateField()
    supplier = models.ForeignKey(Supplier, models.CASCADE, related_name="performance")
    syncs = models.PositiveIntegerField()
    products = models.PositiveIntegerField()
    in_stock = models.PositiveIntegerField()
    units = models.PositiveIntegerField()
    revenue = money()
    made_at = models.DateTimeField()

    class Meta:
        ordering = ("-day", "supplier")
        constraints = (
            models.UniqueConstraint(fields=("day", "supplier"), name="supplier_report_once_a_day"),
        )

    def __str__(self) -> str:
        return f"{self.day}: {self.supplier_id}"


class MarketplacePerformance(models.Model):
    """How a marketplace did on a day."""

    day = models.DateField()
    marketplace = models.ForeignKey(Marketplace, models.CASCADE, related_name="performance")
    listings = models.PositiveIntegerField()
    orders = models.PositiveIntegerField()
    fulfilled = models.PositiveIntegerField()
    units = models.PositiveIntegerField()
    revenue = money()
    made_at = models.DateTimeField()

    class Meta:
        ordering = ("-day", "marketplace")
        constraints = (
            models.UniqueConstraint(
                fields=("day", "marketplace"), name="marketplace_report_once_a_day"
            ),
        )

    def __str__(self) -> str:
        return f"{self.day}: {self.marketplace_id}"


class Profitability(models.Model):
    """What a day's sales of a product left, after its cost and the marketplaces' commissions."""

    day = models.DateField()
    product = models.ForeignKey(Product, models.CASCADE, related_name="profitability")
    units = models.PositiveIntegerField()
    revenue = money()
    cost = money()
    commission = money()
    profit = money()
    made_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "profitability"
        ordering = ("-day", "product")
        constraints = (
            models.UniqueConstraint(fields=("day", "product"), name="profitability_once_a_day"),
        )

    def __str__(self) -> str:
        return f"{self.day}: {self.product_id} {self.profit}"
