"""Marketplaces, listings and orders in Django's own administration."""

from __future__ import annotations

from django.contrib import admin

from marketplaces.models import Listing, Marketplace, Order, OrderLine


class Lines(admin.TabularInline):
    """Of one order."""

    model = OrderLine
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """With its lines."""

    list_display = ("number", "marketplace", "ordered_at", "status")
    list_filter = ("marketplace", "status")
    inlines = (Lines,)


admin.site.register(Marketplace)
admin.site.register(Listing)
