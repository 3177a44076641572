"""Reports in Django's own administration."""

from __future__ import annotations

from django.contrib import admin

from analytics.models import (
    DailyReport,
    MarketplacePerformance,
    Profitability,
    SupplierPerformance,
)

admin.site.register([DailyReport, MarketplacePerformance, Profitability, SupplierPerformance])
