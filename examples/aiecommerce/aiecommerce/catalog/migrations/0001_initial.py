"""The tables as they are at first."""

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="PriceListEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("sku", models.CharField(max_length=40, unique=True)),
                ("price", models.DecimalField(decimal_places=2, max_digits=10)),
            ],
        ),
        migrations.CreateModel(
            name="Product",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("sku", models.CharField(max_length=40, unique=True)),
                ("name", models.CharField(max_length=200)),
                ("category", models.CharField(blank=True, max_length=60)),
                (
                    "price",
                    models.DecimalField(
                        blank=True,
                        decimal_places=2,
                        max_digits=10,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(0)],
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                (
                    "cost",
                    models.DecimalField(blank=True, decimal_places=2, max_digits=10, null=True),
                ),
                ("stock", models.PositiveIntegerField(default=0)),
                ("normalized_at", models.DateTimeField(blank=True, null=True)),
                ("brand", models.CharField(blank=True, max_length=60)),
                ("gtin", models.CharField(blank=True, max_length=14)),
                ("weight_grams", models.PositiveIntegerField(blank=True, null=True)),
                ("enriched_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Listing",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("is_eligible", models.BooleanField()),
                (
                    "reasons",
                    models.JSONField(default=list, help_text="What stands against it."),
                ),
                ("decided_at", models.DateTimeField()),
                (
                    "product",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="listing",
                        to="catalog.product",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="ScrapedItem",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("slot", models.DateTimeField(help_text="The hour of the scrape.")),
                ("code", models.CharField(max_length=40)),
                ("name", models.TextField()),
                ("category", models.TextField()),
                ("price", models.TextField()),
                ("stock", models.TextField()),
                ("normalized_at", models.DateTimeField(blank=True, null=True)),
                (
                    "problem",
                    models.TextField(blank=True, help_text="Why it could not be normalised."),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("normalized_at", None)),
                        fields=["slot"],
                        name="not_normalized",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("slot", "code"), name="one_item_per_slot_and_code"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ProductImage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("position", models.PositiveSmallIntegerField()),
                ("width", models.PositiveSmallIntegerField()),
                ("height", models.PositiveSmallIntegerField()),
                ("sha256", models.CharField(max_length=64)),
                ("content", models.BinaryField()),
                ("thumbnail", models.BinaryField()),
                (
                    "product",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="images",
                        to="catalog.product",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("product", "position"),
                        name="one_image_per_product_and_position",
                    )
                ],
            },
        ),
    ]
