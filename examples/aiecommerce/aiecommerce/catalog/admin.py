"""What an operator sees at /admin/."""

from __future__ import annotations

from django.contrib import admin

from .models import Listing, PriceListEntry, Product, ScrapedItem


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products."""

    list_display = ("sku", "name", "category", "price", "stock", "enriched_at")
    search_fields = ("sku", "name")


@admin.register(ScrapedItem)
class ScrapedItemAdmin(admin.ModelAdmin):
    """What was scraped, with what could not be read."""

    list_display = ("slot", "code", "price", "stock", "normalized_at", "problem")
    list_filter = ("slot",)


@admin.register(Listing)
class ListingAdmin(admin.ModelAdmin):
    """Who may be offered, and who not and why."""

    list_display = ("product", "is_eligible", "reasons", "decided_at")
    list_filter = ("is_eligible",)


admin.site.register(PriceListEntry)
