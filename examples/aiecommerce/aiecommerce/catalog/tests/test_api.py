"""The JSON API, and when its tasks are sent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from unittest import mock

from celery import current_app
from celery.exceptions import BackendGetMetaError
from django.core.management import call_command
from django.db import OperationalError, transaction
from django.test import TestCase, TransactionTestCase
from kombu.exceptions import OperationalError as BrokerError

from aiecommerce.catalog import services, tasks
from aiecommerce.catalog.models import Product

SEND = "aiecommerce.catalog.tasks.update_product_price.apply_async"
CABLE = {"sku": "C-1", "name": "Cable", "category": "Accesorios"}


class OnCommitTest(TransactionTestCase):
    """A task is sent once other connections can see its row, and not before."""

    def test_it_is_sent_after_the_commit_with_an_id(self) -> None:
        with mock.patch(SEND) as send:
            with transaction.atomic():
                product = services.create_product(CABLE)
                send.assert_not_called()
            send.assert_called_once()
            self.assertEqual(send.call_args.args, ((product.id, 20.00),))
            # The product is there, and no caller waits for this task, so no result store has to answer.
            self.assertIs(send.call_args.kwargs["ignore_result"], True)

    def test_it_is_not_sent_after_a_rollback(self) -> None:
        with mock.patch(SEND) as send:
            with self.assertRaises(RuntimeError), transaction.atomic():
                services.create_product(CABLE)
                raise RuntimeError("changed my mind")
            send.assert_not_called()
        self.assertEqual(Product.objects.count(), 0)

    def test_eager_mode_runs_it_at_the_commit(self) -> None:
        current_app.conf.task_always_eager = True
        self.addCleanup(setattr, current_app.conf, "task_always_eager", False)
        answer = self.client.post("/api/v1/admin/products", CABLE, "application/json")
        self.assertEqual(answer.status_code, 201)
        self.assertIsNone(answer.json()["price"])
        self.assertEqual(Product.objects.get().price, Decimal("20.00"))

    def test_a_broker_that_is_away_leaves_the_product_and_says_what_to_do(self) -> None:
        with mock.patch(SEND, side_effect=BrokerError("redis://secret@host")):
            answer = self.client.post("/api/v1/admin/products", CABLE, "application/json")
        self.assertEqual(answer.status_code, 503)
        stored = Product.objects.get()
        self.assertIn(f"POST /api/v1/admin/products/{stored.id}/price", answer.json()["detail"])
        self.assertNotIn("secret", answer.content.decode())


class PriceTaskTest(TestCase):
    """update_product_price."""

    def test_done_twice_it_is_the_same_and_touches_nothing_else(self) -> None:
        product = Product.objects.create(**CABLE, stock=7)
        for _ in range(2):
            self.assertEqual(tasks.update_product_price(product.id, 20.00), "20.00")
        product.refresh_from_db()
        self.assertEqual((product.price, product.stock), (Decimal("20.00"), 7))

    def test_only_prices_are_taken(self) -> None:
        product = Product.objects.create(**CABLE)
        for wrong in (-1, "free", float("nan"), float("inf"), 10**9):
            with self.subTest(wrong), self.assertRaises(ValueError):
                tasks.update_product_price(product.id, wrong)


class ApiTest(TestCase):
    """Requests and answers."""

    def post(self, path: str, body: Any, content_type: str = "application/json") -> Any:
        """Send a body with the broker out of reach of this test."""
        with mock.patch(SEND) as self.send:
            self.send.return_value.id = "11111111-2222-4333-8444-555555555555"
            return self.client.post(f"/api/v1/admin/{path}", body, content_type)

    def test_health_asks_no_database(self) -> None:
        with self.assertNumQueries(0):
            answer = self.client.get("/health")
        self.assertEqual((answer.status_code, answer.json()), (200, {"status": "ok"}))

    def test_a_new_product_is_answered_and_found(self) -> None:
        answer = self.post("products", CABLE)
        self.assertEqual(answer.status_code, 201)
        found = self.client.get(f"/api/v1/products/{answer.json()['id']}").json()
        self.assertEqual(found, answer.json())
        self.assertEqual(self.client.get("/api/v1/products").json(), {"products": [found]})
        self.assertRedirects(self.client.get("/"), "/api/v1/products")

    def test_a_bad_product_is_refused(self) -> None:
        Product.objects.create(sku="TAKEN", name="Taken")
        for body, status in (
            ("{", 400),
            ("[]", 400),
            ({}, 422),
            ({"sku": "A"}, 422),
            ({"sku": "A", "name": 7}, 422),
            ({"sku": "A\0", "name": "A"}, 422),
            ({"sku": "A" * 41, "name": "A"}, 422),
            ({"sku": "A", "name": "A", "price": 3}, 422),
            ({"sku": "TAKEN", "name": "A"}, 409),
        ):
            with self.subTest(body):
                answer = self.post("products", body)
                self.assertEqual(answer.status_code, status)
                self.assertTrue(answer.json()["detail"])
        self.assertEqual(self.post("products", "{}", "text/plain").status_code, 415)
        self.assertEqual(self.client.get("/api/v1/admin/products").status_code, 405)
        self.assertEqual(Product.objects.count(), 1)

    def test_a_price_is_sent_to_a_worker(self) -> None:
        product = Product.objects.create(**CABLE)
        answer = self.post(f"products/{product.id}/price", {"price": "12.5"})
        self.assertEqual(answer.status_code, 202)
        self.assertIn(answer.json()["task_id"], answer.json()["status_url"])
        self.assertEqual(self.send.call_args.args, ((product.id, "12.50"),))
        self.assertIs(self.send.call_args.kwargs["ignore_result"], False)

    def test_a_bad_price_is_refused(self) -> None:
        product = Product.objects.create(**CABLE)
        for wrong in (None, True, [], "free", -1, "-0.001", "NaN", 10**9, "99999999.999"):
            with self.subTest(wrong):
                answer = self.post(f"products/{product.id}/price", {"price": wrong})
                self.assertEqual(answer.status_code, 422)
                self.send.assert_not_called()
        self.assertEqual(self.post("products/4711/price", {"price": 1}).status_code, 404)

    def test_an_outage_is_a_503_in_words(self) -> None:
        product = Product.objects.create(**CABLE)
        url = f"/api/v1/admin/products/{product.id}/price"
        # RuntimeError is what Celery raises if the result store is away.
        for error in (BrokerError, RuntimeError):
            with mock.patch(SEND, side_effect=error("redis://secret@host")):
                answer = self.client.post(url, {"price": 1}, "application/json")
            self.assertEqual(answer.status_code, 503)
            self.assertNotIn("secret", answer.content.decode())
        task = "/api/v1/admin/tasks/11111111-2222-4333-8444-555555555555"
        away = BackendGetMetaError("failed to get meta", task_id="secret")
        with mock.patch.object(type(current_app.backend), "get_task_meta", side_effect=away):
            answer = self.client.get(task)
        self.assertEqual(answer.status_code, 503)
        self.assertNotIn("secret", answer.content.decode())
        with mock.patch.object(Product.objects, "order_by", side_effect=OperationalError("gone")):
            answer = self.client.get("/api/v1/products")
        self.assertEqual(
            (answer.status_code, answer.json()), (503, {"detail": "the database is unavailable"})
        )

    def test_the_state_of_a_task(self) -> None:
        url = "/api/v1/admin/tasks/11111111-2222-4333-8444-555555555555"
        for meta, expected in (
            ({"status": "PENDING", "result": None}, {"state": "PENDING"}),
            ({"status": "SUCCESS", "result": "20.00"}, {"state": "SUCCESS", "result": "20.00"}),
            (
                {"status": "FAILURE", "result": ValueError("no\nprice")},
                {"state": "FAILURE", "error": "ValueError: no"},
            ),
        ):
            with mock.patch.object(type(current_app.backend), "get_task_meta", return_value=meta):
                answer = self.client.get(url).json()
            self.assertEqual(answer.pop("task_id"), url.rpartition("/")[2])
            self.assertEqual(answer, expected)


class FixtureTest(TestCase):
    """The fixture `demo`."""

    def test_loaded_twice_its_products_are_there_once_and_those_of_others_stay(self) -> None:
        other = Product.objects.create(sku="C-1", name="Cable")
        for _ in range(2):
            call_command("loaddata", "demo", verbosity=0)
        self.assertEqual(Product.objects.filter(sku__startswith="DEMO-").count(), 3)
        other.refresh_from_db()
        self.assertEqual(other.name, "Cable")
