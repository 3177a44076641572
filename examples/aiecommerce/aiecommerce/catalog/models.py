"""What the stages of the pipeline hand to each other: each reads the rows that the one before has written."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone


class ScrapedItem(models.Model):
    """One line of the supplier's site, as it stood there; one for each hour and code."""

    slot = models.DateTimeField(help_text="The hour of the scrape.")
    code = models.CharField(max_length=40)
    name = models.TextField()
    category = models.TextField()
    price = models.TextField()
    stock = models.TextField()
    normalized_at = models.DateTimeField(null=True, blank=True)
    problem = models.TextField(blank=True, help_text="Why it could not be normalised.")

    class Meta:
        """A scrape that is done twice finds its own rows."""

        constraints = (
            models.UniqueConstraint(fields=("slot", "code"), name="one_item_per_slot_and_code"),
        )
        indexes = (
            # What the next stage looks for.
            models.Index(
                fields=("slot",), name="not_normalized", condition=models.Q(normalized_at=None)
            ),
        )

    def __str__(self) -> str:
        """Code and hour."""
        return f"{self.code} of {self.slot:%Y-%m-%d %H:%M}"


class ProductManager(models.Manager["Product"]):
    """Finds products by what people call them."""

    def get_by_natural_key(self, sku: str) -> Product:
        """The product with this SKU; for fixtures, which know no ids."""
        return self.get(sku=sku)


class Product(models.Model):
    """A product of the shop. Its SKU is the supplier's code, or was entered by hand."""

    sku = models.CharField(max_length=40, unique=True)
    name = models.CharField(max_length=200)
    category = models.CharField(max_length=60, blank=True)
    price = models.DecimalField(
        max_digits=10, decimal_places=2, null=True, blank=True, validators=[MinValueValidator(0)]
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    # From run_normalize_products; a product without a supplier has none of these.
    cost = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    stock = models.PositiveIntegerField(default=0)
    normalized_at = models.DateTimeField(null=True, blank=True)

    # From run_enrich_products.
    brand = models.CharField(max_length=60, blank=True)
    gtin = models.CharField(max_length=14, blank=True)
    weight_grams = models.PositiveIntegerField(null=True, blank=True)
    enriched_at = models.DateTimeField(null=True, blank=True)

    objects = ProductManager()

    def __str__(self) -> str:
        """SKU and name."""
        return f"{self.sku} {self.name}"

    def natural_key(self) -> tuple[str]:
        """What a fixture calls it."""
        return (self.sku,)


class PriceListEntry(models.Model):
    """The shop's own price for a product, from its price list; wins over one that was calculated."""

    sku = models.CharField(max_length=40, unique=True)
    price = models.DecimalField(max_digits=10, decimal_places=2)

    def __str__(self) -> str:
        """SKU and price."""
        return f"{self.sku}: {self.price}"


class Listing(models.Model):
    """Whether a product can be offered in Mercado Libre."""

    product = models.OneToOneField(Product, on_delete=models.CASCADE, related_name="listing")
    is_eligible = models.BooleanField()
    reasons = models.JSONField(default=list, help_text="What stands against it.")
    # The last change, not the last look.
    decided_at = models.DateTimeField()

    def __str__(self) -> str:
        """The answer."""
        return f"{self.product_id}: {'eligible' if self.is_eligible else 'not eligible'}"


class ProductImage(models.Model):
    """A picture of a product. In the database, since the hosts of a fleet share no directory."""

    product = models.ForeignKey(Product, on_delete=models.CASCADE, related_name="images")
    position = models.PositiveSmallIntegerField()
    width = models.PositiveSmallIntegerField()
    height = models.PositiveSmallIntegerField()
    sha256 = models.CharField(max_length=64)
    content = models.BinaryField()
    thumbnail = models.BinaryField()

    class Meta:
        """Fetched twice, it is there once."""

        constraints = (
            models.UniqueConstraint(
                fields=("product", "position"), name="one_image_per_product_and_position"
            ),
        )

    def __str__(self) -> str:
        """Product and position."""
        return f"{self.product_id}/{self.position}"
