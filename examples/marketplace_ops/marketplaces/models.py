"""What is stored. The database's constraints are rules that hold even if a task runs twice."""

from __future__ import annotations

from django.core.validators import MaxValueValidator
from django.db import models
from django.utils import timezone

from suppliers.models import CODE, Product


class Marketplace(models.Model):
    """A place where we sell, and the part of a price that it keeps."""

    code = models.CharField(max_length=30, unique=True, validators=[CODE])
    name = models.CharField(max_length=100)
    is_active = models.BooleanField(default=True)
    commission_percent = models.PositiveSmallIntegerField(validators=[MaxValueValidator(100)])
    listings_at = models.DateTimeField(null=True, editable=False)
    orders_at = models.DateTimeField(null=True, editable=False)
    inventory_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("code",)

    def __str__(self) -> str:
        return self.name


class Listing(models.Model):
    """A product on a marketplace."""

    class Status(models.TextChoices):
        """Paused means that customers can't buy it for now."""

        ACTIVE = "active"
        PAUSED = "paused"

    marketplace = models.ForeignKey(Marketplace, models.CASCADE, related_name="listings")
    product = models.ForeignKey(Product, models.PROTECT, related_name="listings")
    title = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=10, decimal_places=2)
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE)
    # What the marketplace was last told; null if it has not been told anything yet.
    quantity = models.PositiveIntegerField(null=True, editable=False)
    quantity_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("marketplace", "product")
        constraints = (
            models.UniqueConstraint(
                fields=("marketplace", "product"), name="listing_once_a_marketplace"
            ),
        )

    def __str__(self) -> str:
        return f"{self.title} ({self.status})"


class Order(models.Model):
    """An order by a customer."""

    class Status(models.TextChoices):
        """An order is fulfilled once, and stays so."""

        NEW = "new"
        FULFILLED = "fulfilled"

    marketplace = models.ForeignKey(Marketplace, models.PROTECT, related_name="orders")
    # The marketplace's own number.
    number = models.CharField(max_length=60)
    ordered_at = models.DateTimeField()
    status = models.CharField(max_length=10, choices=Status, default=Status.NEW)
    tracking_number = models.CharField(max_length=60, blank=True)
    fulfilled_at = models.DateTimeField(null=True, blank=True)
    received_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("-ordered_at", "-pk")
        indexes = (models.Index(fields=("ordered_at",), name="order_ordered_at"),)
        constraints = (
            models.UniqueConstraint(
                fields=("marketplace", "number"), name="order_once_a_marketplace"
            ),
        )

    def __str__(self) -> str:
        return f"{self.number} ({self.status})"


class OrderLine(models.Model):
    """How many of a product an order has, and what one was sold for."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT, related_name="order_lines")
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        ordering = ("pk",)
        constraints = (
            models.UniqueConstraint(fields=("order", "product"), name="order_line_once_a_product"),
        )

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product_id}"
