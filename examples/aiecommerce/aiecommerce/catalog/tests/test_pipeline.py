"""The stages, each on the rows of the one before, and each done twice."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

from celery.exceptions import Retry
from django.conf import settings
from django.db import OperationalError
from django.test import TestCase, override_settings
from django.utils import timezone

from aiecommerce.catalog import pictures, pipeline, sources, tasks
from aiecommerce.catalog.models import (
    Listing,
    PriceListEntry,
    Product,
    ProductImage,
    ScrapedItem,
)

MODELS = (ScrapedItem, Product, Listing, ProductImage, PriceListEntry)
STAGES = (
    tasks.run_scrape_tecnomega,
    tasks.run_normalize_products,
    tasks.run_enrich_products,
    tasks.run_ml_eligibility_update,
    tasks.run_image_fetcher,
)
MONDAY = datetime(2026, 11, 16, 13, 0, 20, tzinfo=UTC)  # 8:00:20 in Guayaquil


def rows() -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    return {model.__name__: list(model.objects.order_by("pk").values()) for model in MODELS}


def at(moment: datetime) -> Any:
    """The clock that the stages read, standing still."""
    return mock.patch.object(timezone, "now", return_value=moment)


class PipelineTest(TestCase):
    """The pipeline of an hour, and of the next."""

    def run_all(self, moment: datetime = MONDAY) -> list[dict[str, Any]]:
        """Run the stages at the minutes at which they are due."""
        results = []
        for minute, stage in zip((0, 10, 15, 20, 25), STAGES, strict=True):
            with at(moment + timedelta(minutes=minute)):
                results.append(stage())
        return results

    def test_each_stage_works_on_the_rows_of_the_one_before(self) -> None:
        scraped, normalized, enriched, decided, fetched = self.run_all()
        self.assertEqual(scraped, {"slot": "2026-11-16T13:00:00+00:00", "items": 24})
        self.assertEqual(ScrapedItem.objects.count(), 24)
        self.assertEqual(normalized, {"created": 23, "updated": 0, "unchanged": 0, "unreadable": 1})
        self.assertEqual(enriched, {"enriched": 23, "without_specification": 3})
        self.assertEqual(decided["eligible"] + decided["not_eligible"], 23)
        self.assertEqual(fetched, {"fetched": decided["eligible"]})
        self.assertGreater(decided["eligible"], 10)
        laptop = Product.objects.get(sku="TM-1001")
        self.assertEqual(laptop.name, "NOTEBOOK HP 15-FD0131 i5 / 8GB / 512GB")
        self.assertEqual((laptop.category, laptop.brand), ("Portátiles", "HP"))
        self.assertGreater(laptop.price, laptop.cost)
        self.assertTrue(laptop.listing.is_eligible)
        image = laptop.images.get()
        self.assertEqual(len(pictures.decode(bytes(image.content))), pictures.SIZE)
        self.assertEqual(len(pictures.decode(bytes(image.thumbnail))), pictures.THUMBNAIL)

    def test_a_stage_without_the_one_before_has_nothing_to_do(self) -> None:
        for stage in STAGES[1:]:
            stage()
        self.assertEqual({name: [] for name in rows()}, rows())

    def test_done_twice_the_rows_are_the_same(self) -> None:
        for minute, stage in zip((0, 10, 15, 20, 25), STAGES, strict=True):
            with at(MONDAY + timedelta(minutes=minute)):
                stage()
            once = rows()
            with at(MONDAY + timedelta(minutes=minute + 1)):
                stage()
            self.assertEqual(rows(), once, stage.name)

    def test_the_next_hour_brings_new_prices_to_the_same_products(self) -> None:
        self.run_all()
        before = dict(Product.objects.values_list("sku", "cost"))
        _, normalized, _, _, _ = self.run_all(MONDAY + timedelta(hours=1))
        self.assertEqual(ScrapedItem.objects.count(), 48)
        self.assertEqual(normalized["created"], 0)
        self.assertGreater(normalized["updated"], 10)
        after = dict(Product.objects.values_list("sku", "cost"))
        self.assertEqual(before.keys(), after.keys())
        self.assertNotEqual(before, after)

    def test_the_older_of_two_hours_does_not_win(self) -> None:
        for hour in (1, 0):
            with at(MONDAY + timedelta(hours=hour)):
                tasks.run_scrape_tecnomega()
        tasks.run_normalize_products()
        newest = ScrapedItem.objects.filter(code="TM-1001").order_by("-slot")[0]
        self.assertEqual(Product.objects.get(sku="TM-1001").cost, pipeline.read_price(newest.price))

    def test_what_cannot_be_read_is_noted_and_holds_nothing_back(self) -> None:
        self.run_all()
        unreadable = ScrapedItem.objects.exclude(problem="").get()
        self.assertEqual((unreadable.code, unreadable.price), ("TM-1022", "Consultar"))
        self.assertIn("Consultar", unreadable.problem)
        self.assertFalse(Product.objects.filter(sku="TM-1022").exists())

    def test_a_line_that_no_column_holds_is_noted_and_holds_nothing_back(self) -> None:
        """On PostgreSQL each of them would end the transaction."""
        fine = sources.Scraped("A", "Fine", "Redes", "$ 1,00", "7")
        odd = (
            replace(fine, code="B", category="C" * 61),
            replace(fine, code="C", price="$ 100000000,00"),
            replace(fine, code="D", stock="2147483648"),
            replace(fine, code="E", stock="9" * 5000),
        )
        least = replace(
            fine, code="Z" * 40, category="C" * 60, price="$ 99999999,99", stock="2147483647"
        )
        with mock.patch.object(sources, "tecnomega", return_value=[*odd, fine, least]):
            normalized = self.run_all()[1]
        self.assertEqual(normalized, {"created": 2, "updated": 0, "unchanged": 0, "unreadable": 4})
        noted = ScrapedItem.objects.exclude(problem="").values_list("code", flat=True)
        self.assertEqual(sorted(noted), ["B", "C", "D", "E"])
        # With the margin on it no price has room.
        self.assertIsNone(Product.objects.get(sku=least.code).price)
        self.assertEqual(Product.objects.get(sku="A").price, Decimal("1.30"))

    def test_a_line_that_cannot_be_written_down_is_left_out(self) -> None:
        fine = sources.Scraped("A", "Half \ud83d, none\0", "Redes", "$ 1,00", "7")
        lines = [replace(fine, code="B" * 41), fine]
        with (
            mock.patch.object(sources, "tecnomega", return_value=lines),
            self.assertLogs("aiecommerce.catalog.pipeline", "WARNING"),
        ):
            self.assertEqual(tasks.run_scrape_tecnomega()["items"], 1)
        self.assertEqual(ScrapedItem.objects.get().name, "Half ?, none?")

    def test_a_price_of_nothing_stays(self) -> None:
        Product.objects.create(sku="TM-1001", name="A gift", price=0)
        self.run_all()
        self.assertEqual(Product.objects.get(sku="TM-1001").price, 0)

    def test_what_stands_against_a_listing_is_named(self) -> None:
        self.run_all()
        reasons = {row.product.sku: row.reasons for row in Listing.objects.all()}
        self.assertEqual(reasons["TM-1007"], ["fewer than 3 in stock"])
        self.assertEqual(reasons["TM-1018"][0], "no brand or GTIN")
        self.assertEqual(reasons["TM-1023"], ["category is not sold there", "no brand or GTIN"])
        eligible = set(Listing.objects.filter(is_eligible=True).values_list("product", flat=True))
        self.assertEqual(eligible, set(ProductImage.objects.values_list("product", flat=True)))

    def test_a_product_of_nobody_is_not_offered(self) -> None:
        Product.objects.create(sku="MINE", name="Mine", category="Redes", price=5)
        self.run_all()
        self.assertEqual(
            Listing.objects.get(product__sku="MINE").reasons,
            ["no brand or GTIN", "fewer than 3 in stock", "no price or cost"],
        )


class PriceListTest(TestCase):
    """The price list and what it wins over."""

    def test_its_prices_are_taken_over_and_done_twice_the_same(self) -> None:
        Product.objects.create(sku="TM-1001", name="Laptop", price=1)
        Product.objects.create(sku="OTHER", name="Other", price=2)
        PriceListEntry.objects.create(sku="GONE", price=3)
        self.assertEqual(tasks.run_sync_price_list(), {"entries": 6, "removed": 1, "updated": 1})
        once = rows()
        self.assertEqual(tasks.run_sync_price_list(), {"entries": 6, "removed": 0, "updated": 0})
        self.assertEqual(rows(), once)
        prices = dict(Product.objects.values_list("sku", "price"))
        self.assertEqual(prices, {"TM-1001": Decimal("579.00"), "OTHER": Decimal("2.00")})

    def test_a_new_product_gets_its_price_from_the_list(self) -> None:
        tasks.run_sync_price_list()
        for stage in STAGES[:4]:
            stage()
        router = Product.objects.get(sku="TM-1015")
        self.assertEqual(router.price, Decimal("27.00"))
        self.assertEqual(router.listing.reasons, ["margin below 10 %"])


class PruneTest(TestCase):
    """Old scrapes go, and nothing else."""

    @override_settings(CATALOG_SCRAPE_RETENTION_DAYS=7)
    def test_what_is_older_goes(self) -> None:
        for days in (0, 6, 8):
            with at(MONDAY - timedelta(days=days)):
                tasks.run_scrape_tecnomega()
        tasks.run_normalize_products()
        with at(MONDAY):
            self.assertEqual(tasks.run_prune_scrapes(), {"deleted": 24})
            self.assertEqual(tasks.run_prune_scrapes(), {"deleted": 0})
        self.assertEqual(ScrapedItem.objects.count(), 48)
        self.assertEqual(Product.objects.count(), 23)


class RetryTest(TestCase):
    """What is away now may be there later."""

    def test_a_source_that_is_away_is_tried_again(self) -> None:
        with (
            tempfile.TemporaryDirectory() as empty,
            override_settings(CATALOG_SOURCES=Path(empty)),
        ):
            for task in (
                tasks.run_scrape_tecnomega,
                tasks.run_enrich_products,
                tasks.run_sync_price_list,
            ):
                with self.subTest(task=task.name), self.assertRaises(Retry) as raised:
                    called(task)
                self.assertIsInstance(raised.exception.exc, sources.SourceUnavailable)
        self.assertEqual(ScrapedItem.objects.count(), 0)

    def test_a_source_that_answers_nonsense_is_tried_again(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name)
            shutil.copytree(settings.CATALOG_SOURCES, copy, dirs_exist_ok=True)
            (copy / "tecnomega.json").write_text("<html>502</html>")
            (copy / "price_list.csv").write_text("sku,price\nTM-1001,free\n")
            with override_settings(CATALOG_SOURCES=copy):
                for task in (tasks.run_scrape_tecnomega, tasks.run_sync_price_list):
                    with self.subTest(task=task.name), self.assertRaises(Retry):
                        called(task)

    def test_a_database_that_is_away_is_tried_again_and_later_each_time(self) -> None:
        waits = []
        with mock.patch.object(pipeline, "scrape", side_effect=OperationalError("gone")):
            for retries in range(3):
                with (
                    mock.patch("random.randrange", side_effect=lambda most: most - 1),
                    self.assertRaises(Retry) as raised,
                ):
                    called(tasks.run_scrape_tecnomega, retries=retries)
                waits.append(raised.exception.when)
        self.assertEqual(waits, [2, 4, 8])

    def test_a_mistake_is_not(self) -> None:
        with self.assertRaises(Product.DoesNotExist):
            called(tasks.update_product_price, (4711, 20.0))


def called(task: Any, arguments: tuple[Any, ...] = (), retries: int = 0) -> Any:
    """What a worker calls, with the retry that it would send caught on its way."""
    task.push_request(args=arguments, kwargs={}, retries=retries, called_directly=False)
    try:
        with (
            mock.patch.object(task, "apply_async"),
            mock.patch("celery.canvas.Signature.apply_async"),
        ):
            return task.run(*arguments)
    finally:
        task.pop_request()


class ReadingTest(TestCase):
    """Texts of the supplier's site as numbers."""

    def test_prices(self) -> None:
        for text, price in {
            "$ 1.234,56": "1234.56",
            "$0,90": "0.90",
            "$ 12345,00": "12345",
        }.items():
            self.assertEqual(pipeline.read_price(text), Decimal(price))
        for text in ("", "Consultar", "1.234,56", "$ 1,234.56", "$ 12.34,00", "$ -1,00"):
            with self.subTest(text), self.assertRaises(ValueError):
                pipeline.read_price(text)

    def test_stock(self) -> None:
        for text, stock in {"7": 7, "Más de 20": 20, " agotado ": 0}.items():
            self.assertEqual(pipeline.read_stock(text), stock)
        for text in ("", "-1", "pocos"):
            with self.subTest(text), self.assertRaises(ValueError):
                pipeline.read_stock(text)

    def test_the_picture_of_a_product_is_always_the_same(self) -> None:
        self.assertEqual(sources.image("TM-1001"), sources.image("TM-1001"))
        self.assertNotEqual(sources.image("TM-1001"), sources.image("TM-1002"))
        for wrong in (b"", b"GIF89a", sources.image("X")[:-30]):
            with self.assertRaises(ValueError):
                pictures.decode(wrong)
