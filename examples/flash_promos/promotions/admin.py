"""Promotions and subscribers in Django's own administration."""

from __future__ import annotations

from django.contrib import admin

from promotions.models import ArchivedPromotion, Promotion, Subscriber


@admin.register(Promotion)
class PromotionAdmin(admin.ModelAdmin):
    """Its status is the clock's to change."""

    list_display = ("name", "discount_percent", "starts_at", "ends_at", "status")
    list_filter = ("status",)


admin.site.register(Subscriber)
admin.site.register(ArchivedPromotion)
