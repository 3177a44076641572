"""Suppliers and marketplaces: their tasks as Celery runs them, in this process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest import mock

from core.running import SourceUnavailable
from django.core.management import call_command
from django.test import TestCase
from django.utils import timezone as clock
from marketplaces import services as market_services
from marketplaces import tasks as marketplaces
from marketplaces.models import Listing, Marketplace, Order, OrderLine
from suppliers import services
from suppliers import tasks as suppliers
from suppliers.models import Product, Stock, Supplier, SupplierSync

NORTHWIND, HARBOR, CLOSED = 1, 2, 4
BAZAAR, PLAZA = 1, 2
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def sync_everything() -> None:
    """All suppliers, listings and orders of the demo."""
    for supplier in (1, 2, 3):
        suppliers.sync_supplier_products(supplier)
    for marketplace in (BAZAAR, PLAZA):
        marketplaces.sync_marketplace_listings(marketplace)
        marketplaces.sync_marketplace_orders(marketplace)


class Suppliers(TestCase):
    fixtures = ("demo",)

    def test_all_means_each_active_one_by_a_task_of_its_own(self) -> None:
        with mock.patch.object(suppliers.sync_supplier_products, "delay") as sent:
            done = suppliers.sync_all_suppliers.apply().get()
        self.assertEqual(done, {"sent": 3})
        self.assertEqual(
            sorted(call.args for call in sent.call_args_list), [(NORTHWIND,), (HARBOR,), (3,)]
        )
        self.assertEqual(sent.call_args.kwargs, {"force_full_sync": False})

    def test_products_and_stock_follow_the_supplier(self) -> None:
        done = suppliers.sync_supplier_products.apply((NORTHWIND,)).get()
        # One of the demo is no longer listed.
        expected = {"supplier": "northwind", "skipped": False, "created": 4, "updated": 0}
        self.assertEqual(done, {**expected, "retired": 1})
        self.assertEqual(Stock.objects.get(product__sku="NW-100").quantity, 40)
        self.assertEqual(Stock.objects.get(product__sku="NW-090").quantity, 0)
        again = suppliers.sync_supplier_products.apply((NORTHWIND,)).get()
        self.assertEqual((again["skipped"], again["created"]), (True, 0))
        self.assertEqual(Product.objects.count(), 5)
        self.assertEqual(SupplierSync.objects.count(), 2)

    def test_what_somebody_changed_here_comes_back_with_a_full_one(self) -> None:
        suppliers.sync_supplier_products(NORTHWIND)
        Product.objects.filter(sku="NW-100").update(name="Changed")
        Product.objects.filter(sku="NW-101").update(retired_at=NOON)
        Stock.objects.filter(product__sku="NW-102").update(quantity=1)
        self.assertTrue(suppliers.sync_supplier_products(NORTHWIND)["skipped"])
        done = suppliers.sync_supplier_products(NORTHWIND, force_full_sync=True)
        self.assertEqual((done["skipped"], done["updated"]), (False, 2))
        self.assertEqual(Product.objects.get(sku="NW-100").name, "Desk lamp")
        self.assertIsNone(Product.objects.get(sku="NW-101").retired_at)
        self.assertEqual(Stock.objects.get(product__sku="NW-102").quantity, 120)

    def test_a_message_that_comes_twice_leaves_one_note(self) -> None:
        for _ in range(2):
            suppliers.sync_supplier_products.apply((NORTHWIND,), task_id="one")
        note = SupplierSync.objects.get()
        self.assertEqual((note.task_id, note.created, note.skipped), ("one", 4, False))

    def test_a_source_that_is_away_is_tried_again_and_changes_nothing(self) -> None:
        with self.assertRaises(SourceUnavailable):
            services.sync_products(CLOSED, NOON)
        self.assertIn(SourceUnavailable, suppliers.sync_supplier_products.autoretry_for)
        self.assertFalse(SupplierSync.objects.exists())

    def test_a_source_with_something_else_in_it_is_told_with_its_name(self) -> None:
        for content in ({}, [{"sku": "A"}], [1], [{"sku": "A", "cost": "x"}]):
            with (
                self.subTest(content=content),
                mock.patch("core.sources.read", return_value=content or 5),
                self.assertRaisesMessage(SourceUnavailable, "northwind-products.json"),
            ):
                services.sync_products(NORTHWIND, NOON)

    def test_a_connection_is_tried(self) -> None:
        self.assertEqual(
            suppliers.test_supplier_connection.apply((HARBOR,)).get(),
            {"supplier": "harbor", "ok": True, "text": "3 products"},
        )
        done = suppliers.test_supplier_connection.apply((CLOSED,)).get()
        self.assertFalse(done["ok"])
        closed = Supplier.objects.get(pk=CLOSED)
        self.assertIs(closed.connection_ok, False)
        self.assertIn("closed-products.json", closed.connection_text)

    def test_stock_alone(self) -> None:
        suppliers.sync_supplier_products(NORTHWIND)
        Stock.objects.update(quantity=7)
        Product.objects.filter(sku="NW-100").update(name="Changed")
        done = suppliers.update_supplier_inventory.apply((NORTHWIND,)).get()
        self.assertEqual(done, {"suppliers": 1, "changed": 5})
        self.assertEqual(Stock.objects.get(product__sku="NW-100").quantity, 40)
        self.assertEqual(Product.objects.get(sku="NW-100").name, "Changed")
        self.assertEqual(suppliers.update_supplier_inventory(), {"suppliers": 3, "changed": 0})

    def test_what_is_old_and_unused_goes(self) -> None:
        sync_everything()
        old = clock.now() - timedelta(days=31)
        SupplierSync.objects.filter(supplier=NORTHWIND).update(synced_at=old)
        # Retired long ago: one that was never sold, and one that was.
        Product.objects.filter(sku__in=["NW-090", "NW-100"]).update(retired_at=old)
        done = suppliers.cleanup_supplier_data.apply().get()
        self.assertEqual(done, {"syncs": 1, "products": 1})
        self.assertFalse(Product.objects.filter(sku="NW-090").exists())
        self.assertTrue(Product.objects.filter(sku="NW-100").exists())
        self.assertEqual(suppliers.cleanup_supplier_data(), {"syncs": 0, "products": 0})

    def test_what_is_of_today_is_never_old(self) -> None:
        with self.assertRaisesMessage(ValueError, "days is 0"):
            suppliers.cleanup_supplier_data(0)

    def test_a_supplier_that_is_not_there_is_an_error(self) -> None:
        done = suppliers.sync_supplier_products.apply((404,))
        self.assertIsInstance(done.result, Supplier.DoesNotExist)


class Marketplaces(TestCase):
    fixtures = ("demo",)

    def setUp(self) -> None:
        for supplier in (1, 2, 3):
            suppliers.sync_supplier_products(supplier)

    def test_all_orders_means_each_active_marketplace(self) -> None:
        Marketplace.objects.filter(pk=PLAZA).update(is_active=False)
        with mock.patch.object(marketplaces.sync_marketplace_orders, "delay") as sent:
            done = marketplaces.sync_all_marketplace_orders.apply().get()
        self.assertEqual(done, {"sent": 1})
        sent.assert_called_once_with(BAZAAR)

    def test_listings_follow_the_marketplace(self) -> None:
        done = marketplaces.sync_marketplace_listings.apply((PLAZA,)).get()
        expected = {"marketplace": "plaza", "created": 4, "listings": 4, "unknown": 1}
        self.assertEqual(done, expected)
        Listing.objects.update(title="Changed", quantity=3)
        self.assertEqual(marketplaces.sync_marketplace_listings(PLAZA)["created"], 0)
        self.assertFalse(Listing.objects.filter(title="Changed").exists())
        # What it was told stays.
        self.assertEqual(Listing.objects.filter(quantity=3).count(), 4)

    def test_orders_come_in_once(self) -> None:
        with mock.patch("django.utils.timezone.now", return_value=NOON):
            done = marketplaces.sync_marketplace_orders.apply((BAZAAR,)).get()
            again = marketplaces.sync_marketplace_orders.apply((BAZAAR,)).get()
        # Three of yesterday, and two of today until noon.
        self.assertEqual(done, {"marketplace": "bazaar", "created": 5, "waiting": 0})
        self.assertEqual(again["created"], 0)
        self.assertEqual(
            set(Order.objects.values_list("number", flat=True)),
            {f"bazaar-20261119-{n}" for n in (1, 2, 3)} | {f"bazaar-20261120-{n}" for n in (1, 2)},
        )
        self.assertEqual(OrderLine.objects.count(), 7)

    def test_an_order_with_an_unknown_product_waits(self) -> None:
        Product.objects.filter(sku="SM-300").delete()
        with mock.patch("django.utils.timezone.now", return_value=NOON):
            with self.assertLogs("marketplaces.tasks", "WARNING"):
                done = marketplaces.sync_marketplace_orders(PLAZA)
            self.assertEqual((done["created"], done["waiting"]), (2, 1))
            suppliers.sync_supplier_products(3, force_full_sync=True)
            self.assertEqual(marketplaces.sync_marketplace_orders(PLAZA)["created"], 1)

    def test_marketplaces_are_told_the_stock_where_it_differs(self) -> None:
        for marketplace in (BAZAAR, PLAZA):
            marketplaces.sync_marketplace_listings(marketplace)
        done = marketplaces.sync_all_marketplace_inventory.apply().get()
        self.assertEqual(done, {"marketplaces": 2, "changed": 9})
        self.assertEqual(Listing.objects.get(product__sku="NW-100").quantity, 40)
        Stock.objects.filter(product__sku="NW-100").update(quantity=39)
        self.assertEqual(marketplaces.sync_all_marketplace_inventory()["changed"], 1)
        self.assertEqual(Listing.objects.get(product__sku="NW-100").quantity, 39)
        self.assertEqual(marketplaces.sync_all_marketplace_inventory()["changed"], 0)

    def test_an_order_is_fulfilled_once(self) -> None:
        marketplaces.sync_marketplace_orders(BAZAAR)
        order = Order.objects.first()
        done = marketplaces.fulfill_marketplace_order.apply((order.pk, "T1")).get()
        self.assertEqual(done, {"order": order.pk, "fulfilled": True})
        self.assertFalse(marketplaces.fulfill_marketplace_order(order.pk, "T2")["fulfilled"])
        order.refresh_from_db()
        self.assertEqual((order.status, order.tracking_number), ("fulfilled", "T1"))
        missing = marketplaces.fulfill_marketplace_order.apply((0,))
        self.assertIsInstance(missing.result, Order.DoesNotExist)

    def test_a_file_with_something_else_in_it_is_told_with_its_name(self) -> None:
        marketplace = Marketplace.objects.get(pk=BAZAAR)
        with mock.patch("core.sources.read", return_value=[{"time": "25:00"}]):
            with self.assertRaisesMessage(SourceUnavailable, "bazaar-orders.json"):
                market_services.ordered(marketplace, NOON)
            with self.assertRaisesMessage(SourceUnavailable, "bazaar-listings.json"):
                market_services.listed(marketplace)


class Demo(TestCase):
    fixtures = ("demo",)

    def test_it_can_be_loaded_again(self) -> None:
        call_command("loaddata", "demo", verbosity=0)
        self.assertEqual(Supplier.objects.count(), 4)
