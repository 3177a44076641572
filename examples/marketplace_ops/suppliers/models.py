"""What is stored. The database's constraints are rules that hold even if a task runs twice."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

# A code is part of the name of a source's file.
CODE = RegexValidator(r"\A[a-z0-9_]+\Z", "Small letters, digits and _ only.")


class Supplier(models.Model):
    """Who sells to us."""

    code = models.CharField(max_length=30, unique=True, validators=[CODE])
    name = models.CharField(max_length=100)
    is_active = models.BooleanField(default=True)
    # Of what was read last: the same content need not be written again.
    digest = models.CharField(max_length=64, blank=True, editable=False)
    synced_at = models.DateTimeField(null=True, editable=False)
    connection_ok = models.BooleanField(null=True, editable=False)
    connection_text = models.CharField(max_length=200, blank=True, editable=False)
    connection_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("code",)

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    """What a supplier has. One that it no longer lists is retired, and deleted later."""

    supplier = models.ForeignKey(Supplier, models.CASCADE, related_name="products")
    sku = models.CharField(max_length=40, unique=True)
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    cost = models.DecimalField(max_digits=10, decimal_places=2)
    updated_at = models.DateTimeField(default=timezone.now)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("sku",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(cost__gte=0), name="product_cost_is_not_negative"
            ),
        )

    def __str__(self) -> str:
        return f"{self.sku} {self.name}"


class Stock(models.Model):
    """How many of a product its supplier has."""

    product = models.OneToOneField(Product, models.CASCADE, related_name="stock")
    quantity = models.PositiveIntegerField()
    counted_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "stock"
        ordering = ("product",)

    def __str__(self) -> str:
        return f"{self.product_id}: {self.quantity}"


class SupplierSync(models.Model):
    """One synchronisation of a supplier's products, and what it changed."""

    supplier = models.ForeignKey(Supplier, models.CASCADE, related_name="syncs")
    synced_at = models.DateTimeField()
    # Empty if the task was called in its own process and not by a worker.
    task_id = models.CharField(max_length=64, blank=True)
    full = models.BooleanField()
    # Nothing had changed at the supplier's, so nothing was compared.
    skipped = models.BooleanField()
    created = models.PositiveIntegerField(default=0)
    updated = models.PositiveIntegerField(default=0)
    retired = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ("-synced_at", "-pk")
        constraints = (
            # A message that is delivered twice leaves one row.
            models.UniqueConstraint(
                fields=("supplier", "task_id"),
                condition=~models.Q(task_id=""),
                name="supplier_sync_once_a_task",
            ),
        )

    def __str__(self) -> str:
        return f"{self.supplier_id} at {self.synced_at:%F %T}"
