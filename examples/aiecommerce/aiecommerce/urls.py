"""Addresses. Those with /admin/ in them are an operator's: the web server asks for a password there."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from aiecommerce.catalog import views

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="products")),
    path("health", views.health),
    path("admin/", admin.site.urls),
    path("api/v1/products", views.products, name="products"),
    path("api/v1/products/<int:product_id>", views.product, name="product"),
    path("api/v1/admin/products", views.create),
    path("api/v1/admin/products/<int:product_id>/price", views.change_price),
    path("api/v1/admin/tasks/<uuid:task_id>", views.task_status, name="task"),
]
