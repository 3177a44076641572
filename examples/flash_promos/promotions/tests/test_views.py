"""The HTTP API."""

from __future__ import annotations

from unittest import mock

from django.db import OperationalError
from django.test import Client, TestCase
from kombu.exceptions import OperationalError as BrokerError

from promotions import views
from promotions.models import Promotion
from promotions.tasks import check_active_promos, process_notification_queue

JSON = {"content_type": "application/json"}


class Api(TestCase):
    fixtures = ["demo"]

    def test_health_asks_nobody(self) -> None:
        with self.assertNumQueries(0):
            self.assertEqual(self.client.get("/health").json(), {"status": "ok"})

    def test_promotions_with_their_messages(self) -> None:
        check_active_promos()
        process_notification_queue()
        with self.assertNumQueries(1):
            found = self.client.get("/api/promotions?status=active").json()["promotions"]
        self.assertEqual(
            [(each["name"], each["messages"]) for each in found],
            [("Evergreen", {"pending": 0, "sent": 3})],
        )

    def test_one_promotion(self) -> None:
        self.assertEqual(self.client.get("/api/promotions/2").json()["name"], "Evergreen")
        missing = self.client.get("/api/promotions/99")
        self.assertEqual(
            (missing.status_code, missing.json()["detail"]), (404, "there is no promotion 99")
        )

    def test_an_unknown_status_is_refused(self) -> None:
        answer = self.client.get("/api/promotions?status=nope")
        self.assertEqual(answer.status_code, 422)
        self.assertIn("scheduled, active, expired", answer.json()["detail"])

    def test_a_check_is_sent(self) -> None:
        with mock.patch.object(views.check_active_promos, "apply_async") as sent:
            sent.return_value.id = "an-id"
            answer = Client(enforce_csrf_checks=True).post("/api/admin/check", **JSON)
        self.assertEqual((answer.status_code, answer.json()), (202, {"task_id": "an-id"}))

    def test_a_form_of_another_site_is_refused(self) -> None:
        with mock.patch.object(views.check_active_promos, "apply_async") as sent:
            self.assertEqual(self.client.post("/api/admin/check").status_code, 415)
            self.assertEqual(self.client.get("/api/admin/check").status_code, 405)
        sent.assert_not_called()

    def test_a_broker_or_a_database_that_is_away_is_named(self) -> None:
        with (
            self.assertLogs("promotions.views", "WARNING"),
            mock.patch.object(views.check_active_promos, "apply_async", side_effect=BrokerError),
        ):
            answer = self.client.post("/api/admin/check", **JSON)
        self.assertEqual(
            (answer.status_code, answer.json()["detail"]), (503, "the broker is unavailable")
        )
        with (
            self.assertLogs("promotions.views", "WARNING"),
            mock.patch.object(Promotion.objects, "annotate", side_effect=OperationalError),
        ):
            answer = self.client.get("/api/promotions")
        self.assertEqual(
            (answer.status_code, answer.json()["detail"]), (503, "the database is unavailable")
        )
