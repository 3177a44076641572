"""Suppliers and products in Django's own administration."""

from __future__ import annotations

from django.contrib import admin

from suppliers.models import Product, Stock, Supplier, SupplierSync


@admin.register(Supplier)
class SupplierAdmin(admin.ModelAdmin):
    """What was read last is the tasks' to write."""

    list_display = ("name", "code", "is_active", "synced_at", "connection_ok")


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """By supplier."""

    list_display = ("sku", "name", "cost", "retired_at")
    list_filter = ("supplier",)


admin.site.register(Stock)
admin.site.register(SupplierSync)
