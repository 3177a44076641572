"""The HTTP API."""

from __future__ import annotations

from unittest import mock

from core import views
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client, TestCase
from kombu.exceptions import OperationalError as BrokerError
from suppliers.models import Product

from tests.test_goods import sync_everything

JSON = {"content_type": "application/json"}


class Api(TestCase):
    fixtures = ("demo",)

    def test_health_asks_nobody(self) -> None:
        with self.assertNumQueries(0):
            self.assertEqual(self.client.get("/health").json(), {"status": "ok"})

    def test_what_is_there(self) -> None:
        sync_everything()
        self.assertEqual(self.client.get("/api/products").json()["count"], 9)
        self.assertGreaterEqual(self.client.get("/api/orders").json()["count"], 5)
        self.assertEqual(self.client.get("/api/executions").json()["executions"], [])
        self.assertEqual(self.client.get("/api/reports").json()["reports"], [])

    def test_tasks_are_sent(self) -> None:
        sync_everything()
        order = self.client.get("/api/orders").json()["orders"][0]["id"]
        cases = {
            "suppliers/1/sync": (
                views.sync_supplier_products,
                {"force_full_sync": True},
            ),
            f"orders/{order}/fulfil": (views.fulfill_marketplace_order, {"tracking_number": "T"}),
            "workflows/1/execute": (views.orchestration.execute_workflow, {}),
        }
        for path, (task, body) in cases.items():
            with self.subTest(path), mock.patch.object(task, "apply_async") as sent:
                sent.return_value.id = "an-id"
                client = Client(enforce_csrf_checks=True)
                answer = client.post(f"/api/admin/{path}", body, **JSON)
                self.assertEqual((answer.status_code, answer.json()), (202, {"task_id": "an-id"}))
                self.assertEqual(sent.call_args.args[1], body)

    def test_mistakes(self) -> None:
        cases = [
            ("suppliers/99/sync", {}, 404),
            ("suppliers/1/sync", {"force_full_sync": "yes"}, 422),
            ("orders/1/fulfil", {"tracking_number": 5}, 422),
            ("workflows/1/execute", [], 400),
            ("workflows/1/execute", "{", 400),
        ]
        for path, body, status in cases:
            with self.subTest(path, body=body):
                answer = self.client.post(f"/api/admin/{path}", body, **JSON)
                self.assertEqual(answer.status_code, status)
                self.assertTrue(answer.json()["detail"])
        self.assertEqual(self.client.post("/api/admin/workflows/1/execute").status_code, 415)
        self.assertEqual(self.client.get("/api/admin/workflows/1/execute").status_code, 405)

    def test_a_broker_or_a_database_that_is_away_is_named(self) -> None:
        with (
            self.assertLogs("core.views", "WARNING"),
            mock.patch.object(views.sync_supplier_products, "apply_async", side_effect=BrokerError),
        ):
            answer = self.client.post("/api/admin/suppliers/1/sync", {}, **JSON)
        self.assertEqual(answer.json(), {"detail": "the broker is unavailable"})
        self.assertEqual(answer.status_code, 503)
        with (
            self.assertLogs("core.views", "WARNING"),
            mock.patch.object(Product.objects, "filter", side_effect=OperationalError),
        ):
            answer = self.client.get("/api/products")
        self.assertEqual(answer.json(), {"detail": "the database is unavailable"})

    def test_the_schedule_is_edited_in_the_admin(self) -> None:
        self.client.force_login(User.objects.create_superuser("ops"))
        for page in ("periodictask", "intervalschedule", "crontabschedule"):
            answer = self.client.get(f"/admin/django_celery_beat/{page}/add/")
            self.assertEqual(answer.status_code, 200, page)
        # And every page of our own models.
        answer = self.client.get("/admin/")
        for app in answer.context["app_list"]:
            for model in app["models"]:
                found = self.client.get(model["admin_url"])
                self.assertEqual(found.status_code, 200, model["admin_url"])
