"""What the tasks do, by the clock, and that doing it twice does it once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase, skipUnlessDBFeature

from promotions import services
from promotions.models import (
    ArchivedPromotion,
    Delivery,
    Notification,
    Promotion,
    Report,
    Subscriber,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def promotion(
    starts_at: datetime = NOON, ends_at: datetime = NOON + HOUR, **given: Any
) -> Promotion:
    return Promotion.objects.create(
        name="Sale", discount_percent=20, starts_at=starts_at, ends_at=ends_at, **given
    )


def subscribers(count: int) -> None:
    Subscriber.objects.bulk_create(Subscriber(email=f"{n}@example.com") for n in range(count))


def statuses() -> dict[str, int]:
    found = list(Notification.objects.values_list("status", flat=True))
    return {status: found.count(status) for status in sorted(set(found))}


class Check(TestCase):
    def status_at(self, now: datetime) -> str:
        services.check_promotions(now)
        return Promotion.objects.get().status

    def test_a_promotion_follows_the_clock(self) -> None:
        promotion()
        self.assertEqual(self.status_at(NOON - MINUTE), "scheduled")
        self.assertEqual(self.status_at(NOON), "active")
        self.assertEqual(self.status_at(NOON + HOUR - MINUTE), "active")
        self.assertEqual(self.status_at(NOON + HOUR), "expired")

    def test_it_never_goes_back(self) -> None:
        promotion()
        services.check_promotions(NOON + HOUR)
        self.assertEqual(self.status_at(NOON), "expired")

    def test_one_whose_time_nobody_looked_at_ends_without_messages(self) -> None:
        subscribers(1)
        promotion()
        checked = services.check_promotions(NOON + 2 * HOUR)
        self.assertEqual((checked.activated, checked.queued), ([], 0))
        self.assertEqual(len(checked.expired), 1)

    def test_the_moments_are_kept(self) -> None:
        promotion()
        services.check_promotions(NOON + MINUTE)
        services.check_promotions(NOON + 2 * HOUR)
        done = Promotion.objects.get()
        self.assertEqual((done.activated_at, done.expired_at), (NOON + MINUTE, NOON + 2 * HOUR))

    def test_each_subscriber_is_told_once(self) -> None:
        subscribers(3)
        promotion()
        first = services.check_promotions(NOON)
        second = services.check_promotions(NOON)
        self.assertEqual((first.queued, second.queued), (3, 0))
        self.assertEqual((second.activated, second.expired), ([], []))
        self.assertEqual(statuses(), {"pending": 3})

    def test_who_subscribes_later_is_not_told(self) -> None:
        promotion()
        services.check_promotions(NOON)
        subscribers(1)
        services.check_promotions(NOON + MINUTE)
        self.assertEqual(statuses(), {})

    def test_messages_of_an_ended_promotion_are_dropped(self) -> None:
        subscribers(2)
        promotion()
        services.check_promotions(NOON)
        services.check_promotions(NOON + HOUR)
        self.assertEqual(statuses(), {"dropped": 2})
        self.assertEqual(services.send_notifications(NOON + HOUR), 0)


class Send(TestCase):
    def setUp(self) -> None:
        subscribers(3)
        promotion()
        services.check_promotions(NOON)

    def test_a_message_leaves_one_row(self) -> None:
        self.assertEqual(services.send_notifications(NOON + MINUTE, "an-id"), 3)
        self.assertEqual(services.send_notifications(NOON + MINUTE, "an-id"), 0)
        self.assertEqual(statuses(), {"sent": 3})
        found = set(Delivery.objects.values_list("sent_at", "task_id"))
        self.assertEqual(found, {(NOON + MINUTE, "an-id")})
        self.assertEqual(Delivery.objects.count(), 3)

    def test_the_database_refuses_a_second_one(self) -> None:
        notification = Notification.objects.all()[0]
        for attempt in range(2):
            delivery = Delivery(notification=notification, sent_at=NOON, task_id=str(attempt))
            if attempt == 0:
                delivery.save()
            else:
                with self.assertRaises(IntegrityError), transaction.atomic():
                    delivery.save()

    def test_what_fails_midway_is_as_if_it_had_not_begun(self) -> None:
        Delivery.objects.create(notification=Notification.objects.all()[2], sent_at=NOON)
        with self.assertRaises(IntegrityError), transaction.atomic():
            services.send_notifications(NOON)
        self.assertEqual(statuses(), {"pending": 3})
        self.assertEqual(Delivery.objects.count(), 1)

    def test_a_batch_has_a_bound_and_begins_with_the_oldest(self) -> None:
        oldest = Notification.objects.all()[0]
        services.BATCH, kept = 1, services.BATCH
        self.addCleanup(setattr, services, "BATCH", kept)
        self.assertEqual(services.send_notifications(NOON), 1)
        self.assertEqual(Delivery.objects.get().notification, oldest)


class Archive(TestCase):
    def setUp(self) -> None:
        subscribers(2)
        promotion()
        services.check_promotions(NOON)
        services.send_notifications(NOON)
        services.check_promotions(NOON + HOUR)

    def test_a_promotion_is_kept_for_a_day(self) -> None:
        self.assertEqual(services.archive_expired(NOON + 25 * HOUR - MINUTE), 0)
        self.assertEqual(Promotion.objects.count(), 1)

    def test_then_its_sum_alone_stays(self) -> None:
        key = Promotion.objects.get().pk
        self.assertEqual(services.archive_expired(NOON + 25 * HOUR), 1)
        self.assertEqual(services.archive_expired(NOON + 25 * HOUR), 0)
        kept = ArchivedPromotion.objects.get()
        self.assertEqual((kept.promotion_id, kept.delivered), (key, 2))
        for model in (Promotion, Notification, Delivery):
            self.assertEqual(model.objects.count(), 0)

    def test_one_that_comes_back_under_its_key_replaces_its_row(self) -> None:
        key = Promotion.objects.get().pk
        services.archive_expired(NOON + 25 * HOUR)
        promotion(pk=key, ends_at=NOON + 2 * HOUR)
        services.check_promotions(NOON + 2 * HOUR)
        self.assertEqual(services.archive_expired(NOON + 26 * HOUR), 1)
        kept = ArchivedPromotion.objects.get()
        self.assertEqual(
            (kept.promotion_id, kept.ends_at, kept.delivered, kept.archived_at),
            (key, NOON + 2 * HOUR, 0, NOON + 26 * HOUR),
        )

    def test_one_that_is_not_over_stays(self) -> None:
        promotion(NOON, NOON + 100 * HOUR)
        services.archive_expired(NOON + 50 * HOUR)
        self.assertEqual(Promotion.objects.count(), 1)


class Counting(TestCase):
    def test_counting_again_replaces_the_report(self) -> None:
        subscribers(2)
        key = promotion().pk
        services.check_promotions(NOON)
        services.count_messages(key, NOON)
        services.send_notifications(NOON)
        services.count_messages(key, NOON + MINUTE)
        report = Report.objects.get()
        self.assertEqual(
            (report.notified, report.delivered, report.counted_at), (2, 2, NOON + MINUTE)
        )


class Rules(TestCase):
    def test_a_promotion_that_ends_before_its_start_is_refused(self) -> None:
        with self.assertRaises(IntegrityError):
            promotion(NOON, NOON - HOUR)


@skipUnlessDBFeature("has_select_for_update_skip_locked")
class TwiceAtOnce(TransactionTestCase):
    """On a database with row locks: `DATABASE_URL=postgresql://… python manage.py test`."""

    def run_twice(self, work: Any) -> list[Any]:
        results: list[Any] = []

        def run() -> None:
            try:
                results.append(work())
            finally:
                connection.close()

        threads = [Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(results), 4, "a thread has failed")
        return results

    def test_everything_is_done_once(self) -> None:
        subscribers(300)
        for _ in range(5):
            promotion()
        checked = self.run_twice(lambda: services.check_promotions(NOON))
        self.assertEqual(sum(each.queued for each in checked), 1500)
        self.assertEqual(statuses(), {"pending": 1500})
        while Notification.objects.filter(status="pending").exists():
            self.run_twice(lambda: services.send_notifications(NOON))
        self.assertEqual(Delivery.objects.count(), 1500)
        self.run_twice(lambda: services.check_promotions(NOON + HOUR))
        archived = self.run_twice(lambda: services.archive_expired(NOON + 30 * HOUR))
        self.assertEqual(sum(archived), 5)
        delivered = ArchivedPromotion.objects.values_list("delivered", flat=True)
        self.assertEqual(list(delivered), [300] * 5)
