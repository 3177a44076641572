"""The tasks as Celery runs them, in this process."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

from celery.exceptions import Retry
from django.core.management import call_command
from django.test import TestCase
from django.utils import timezone
from kombu.exceptions import OperationalError

from promotions import tasks
from promotions.models import (
    ArchivedPromotion,
    Delivery,
    Notification,
    Promotion,
    Report,
)


class Tasks(TestCase):
    fixtures = ["demo"]

    def test_the_demo_goes_through_all_of_them(self) -> None:
        with mock.patch.object(tasks.robust_task, "delay") as sent:
            with self.captureOnCommitCallbacks(execute=True):
                done = tasks.check_active_promos.apply().get()
            self.assertEqual(done, {"activated": 1, "expired": 1, "queued": 3})
            sent.assert_called_once_with(1)
            with self.captureOnCommitCallbacks() as later:
                again = tasks.check_active_promos.apply().get()
            self.assertEqual((again, later), ({"activated": 0, "expired": 0, "queued": 0}, []))
        self.assertEqual(tasks.process_notification_queue.apply(task_id="one").get(), {"sent": 3})
        self.assertEqual(tasks.process_notification_queue.apply().get(), {"sent": 0})
        self.assertEqual(set(Delivery.objects.values_list("task_id", flat=True)), {"one"})
        self.assertEqual(tasks.cleanup_expired_promos.apply().get(), {"archived": 1})
        self.assertEqual(tasks.cleanup_expired_promos.apply().get(), {"archived": 0})
        self.assertEqual(ArchivedPromotion.objects.get().name, "Launch week")
        self.assertEqual(
            list(Promotion.objects.values_list("name", "status")),
            [("Evergreen", "active"), ("Turn of the century", "scheduled")],
        )

    def test_a_broker_that_is_away_fails_no_work_that_is_done(self) -> None:
        away = mock.patch.object(tasks.robust_task, "delay", side_effect=OperationalError)
        with away, self.assertLogs("django.test", "ERROR"):
            with self.captureOnCommitCallbacks(execute=True):
                done = tasks.check_active_promos.apply()
        self.assertEqual(done.state, "SUCCESS")
        self.assertEqual(Promotion.objects.get(pk=1).status, "expired")

    def test_the_fixture_can_be_loaded_again(self) -> None:
        call_command("loaddata", "demo", verbosity=0)
        self.assertEqual(Promotion.objects.count(), 3)

    def test_a_called_task_leaves_no_id(self) -> None:
        tasks.check_active_promos()
        tasks.process_notification_queue()
        self.assertEqual(set(Delivery.objects.values_list("task_id", flat=True)), {""})

    def test_all_batches_are_done(self) -> None:
        with mock.patch.object(tasks.services, "BATCH", 1):
            tasks.check_active_promos()
            self.assertEqual(tasks.process_notification_queue(), {"sent": 3})
        self.assertFalse(Notification.objects.filter(status="pending").exists())


class Retries(TestCase):
    def test_the_work_is_done_for_all_active_promotions(self) -> None:
        now = timezone.now()
        Promotion.objects.create(
            name="Sale", discount_percent=5, starts_at=now, ends_at=now + timedelta(hours=1)
        )
        tasks.check_active_promos()
        self.assertEqual(tasks.robust_task.apply().get(), {"counted": 1})
        self.assertEqual(Report.objects.count(), 1)

    def test_a_failure_is_tried_again_in_a_minute(self) -> None:
        with mock.patch.object(tasks.robust_task, "retry", side_effect=Retry) as retry:
            tasks.robust_task.apply((404,))
        self.assertEqual(
            {name: retry.call_args.kwargs[name] for name in ("max_retries", "countdown")},
            {"max_retries": 3, "countdown": 60},
        )

    def test_after_three_more_attempts_it_has_failed(self) -> None:
        with self.assertLogs("promotions.tasks", "INFO") as logs:
            done = tasks.robust_task.apply((404,))
        self.assertEqual(done.state, "FAILURE")
        self.assertIsInstance(done.result, Promotion.DoesNotExist)
        attempts = [record.getMessage() for record in logs.records]
        self.assertEqual(attempts, [f"attempt {n}" for n in (1, 2, 3, 4)])
