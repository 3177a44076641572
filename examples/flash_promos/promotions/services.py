"""The work itself, without Celery. Each function can be repeated, and can run twice at once.

Rows are taken by FOR UPDATE SKIP LOCKED: of two that run at once, each does what the other has not
begun. (SQLite knows no row locks; it lets one transaction write at a time.)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count

from promotions.models import (
    ArchivedPromotion,
    Delivery,
    Notification,
    Promotion,
    Report,
    Subscriber,
)

# How long an expired promotion stays before it is archived.
KEEP_EXPIRED = timedelta(hours=24)
# Rows in one transaction.
BATCH = 200
# What the archive has of a promotion, beside its key.
ARCHIVED = ["name", "discount_percent", "starts_at", "ends_at", "delivered", "archived_at"]


@dataclass(frozen=True)
class Checked:
    """The promotions, by primary key, that a check has moved on, and how many messages it queued."""

    activated: list[int]
    expired: list[int]
    queued: int


@transaction.atomic
def check_promotions(now: datetime) -> Checked:
    """Bring each promotion's status to what the clock says; queue a message to each subscriber.

    Status and messages change in one transaction: no promotion starts without its messages.
    """
    mine = Promotion.objects.select_for_update(skip_locked=True)
    begun = list(
        mine.filter(status=Promotion.Status.SCHEDULED, starts_at__lte=now, ends_at__gt=now)
    )
    over = [
        promotion.pk
        for promotion in mine.filter(ends_at__lte=now).exclude(status=Promotion.Status.EXPIRED)
    ]
    activated = [promotion.pk for promotion in begun]
    Promotion.objects.filter(pk__in=activated).update(
        status=Promotion.Status.ACTIVE, activated_at=now
    )
    Promotion.objects.filter(pk__in=over).update(status=Promotion.Status.EXPIRED, expired_at=now)
    Notification.objects.filter(promotion__in=over, status=Notification.Status.PENDING).update(
        status=Notification.Status.DROPPED
    )
    messages = [
        Notification(promotion=promotion, subscriber=subscriber, created_at=now)
        for promotion in begun
        for subscriber in Subscriber.objects.all()
    ]
    Notification.objects.bulk_create(messages, batch_size=BATCH, ignore_conflicts=True)
    return Checked(activated, over, len(messages))


@transaction.atomic
def send_notifications(now: datetime, task_id: str = "") -> int:
    """Send up to BATCH of the messages that wait, the oldest first; how many were sent."""
    pending = list(
        Notification.objects.select_for_update(skip_locked=True).filter(
            status=Notification.Status.PENDING
        )[:BATCH]
    )
    Delivery.objects.bulk_create(
        Delivery(notification=notification, sent_at=now, task_id=task_id)
        for notification in pending
    )
    Notification.objects.filter(pk__in=[notification.pk for notification in pending]).update(
        status=Notification.Status.SENT
    )
    return len(pending)


@transaction.atomic
def archive_expired(now: datetime) -> int:
    """Move up to BATCH promotions that have been over for KEEP_EXPIRED to the archive; how many."""
    old = list(
        Promotion.objects.select_for_update(skip_locked=True).filter(
            status=Promotion.Status.EXPIRED, ends_at__lte=now - KEEP_EXPIRED
        )[:BATCH]
    )
    keys = [promotion.pk for promotion in old]
    delivered = dict(
        Delivery.objects.filter(notification__promotion__in=keys)
        .order_by()
        .values_list("notification__promotion")
        .annotate(Count("pk"))
    )
    rows = [
        ArchivedPromotion(
            promotion_id=promotion.pk,
            name=promotion.name,
            discount_percent=promotion.discount_percent,
            starts_at=promotion.starts_at,
            ends_at=promotion.ends_at,
            delivered=delivered.get(promotion.pk, 0),
            archived_at=now,
        )
        for promotion in old
    ]
    # A promotion can come back under its old key, as `loaddata` brings it; its latest end is then what stays.
    ArchivedPromotion.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["promotion_id"],
        update_fields=ARCHIVED,
    )
    Promotion.objects.filter(pk__in=keys).delete()
    return len(old)


def active_promotions() -> list[int]:
    """The primary keys of all active promotions."""
    active = Promotion.objects.filter(status=Promotion.Status.ACTIVE)
    return list(active.values_list("pk", flat=True))


@transaction.atomic
def count_messages(promotion_id: int, now: datetime) -> None:
    """Count a promotion's messages into its report.

    Raises Promotion.DoesNotExist if there is no such promotion.
    """
    # Two that count at once would else both insert the first report.
    promotion = Promotion.objects.select_for_update().get(pk=promotion_id)
    counts = promotion.notifications.aggregate(notified=Count("pk"), delivered=Count("delivery"))
    Report.objects.update_or_create(promotion=promotion, defaults={**counts, "counted_at": now})
