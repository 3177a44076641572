"""What is stored. The database's constraints are rules that hold even if a task runs twice."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone


class Promotion(models.Model):
    """A discount for some hours. Its status follows the clock: see services.check_promotions."""

    class Status(models.TextChoices):
        """In the order in which a promotion goes through them; it never goes back."""

        SCHEDULED = "scheduled"
        ACTIVE = "active"
        EXPIRED = "expired"

    name = models.CharField(max_length=100)
    discount_percent = models.PositiveSmallIntegerField(
        validators=[MinValueValidator(1), MaxValueValidator(99)]
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    status = models.CharField(
        max_length=10, choices=Status, default=Status.SCHEDULED, editable=False
    )
    activated_at = models.DateTimeField(null=True, editable=False)
    expired_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("starts_at", "pk")
        indexes = (models.Index(fields=("status", "ends_at"), name="promotion_status_ends_at"),)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(ends_at__gt=models.F("starts_at")),
                name="promotion_ends_after_its_start",
            ),
            models.CheckConstraint(
                condition=models.Q(discount_percent__range=(1, 99)),
                name="promotion_discount_is_a_percentage",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.status})"


class Subscriber(models.Model):
    """A person who wants to hear of every promotion."""

    email = models.EmailField(unique=True)

    class Meta:
        ordering = ("email",)

    def __str__(self) -> str:
        return self.email


class Notification(models.Model):
    """One message to one subscriber on one promotion; together they are the queue of messages."""

    class Status(models.TextChoices):
        """Dropped: the promotion ended before the message was sent."""

        PENDING = "pending"
        SENT = "sent"
        DROPPED = "dropped"

    promotion = models.ForeignKey(Promotion, models.CASCADE, related_name="notifications")
    subscriber = models.ForeignKey(Subscriber, models.CASCADE, related_name="notifications")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("pk",)
        indexes = (
            models.Index(
                fields=("id",), condition=models.Q(status="pending"), name="notification_pending"
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("promotion", "subscriber"), name="notification_once_a_subscriber"
            ),
        )

    def __str__(self) -> str:
        return f"{self.promotion_id} to {self.subscriber_id}: {self.status}"


class Delivery(models.Model):
    """That a notification was sent: this row stands for the message. There can be only one."""

    notification = models.OneToOneField(Notification, models.CASCADE, related_name="delivery")
    sent_at = models.DateTimeField()
    # Empty if the task was called in its own process and not by a worker.
    task_id = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.notification_id} at {self.sent_at:%F %T}"


class Report(models.Model):
    """How many messages a promotion had when they were last counted."""

    promotion = models.OneToOneField(Promotion, models.CASCADE, related_name="report")
    notified = models.PositiveIntegerField()
    delivered = models.PositiveIntegerField()
    counted_at = models.DateTimeField()

    class Meta:
        ordering = ("promotion",)

    def __str__(self) -> str:
        return f"{self.promotion_id}: {self.delivered} of {self.notified}"


class ArchivedPromotion(models.Model):
    """What stays of a promotion after its clean-up."""

    # Not a foreign key: the promotion is gone.
    promotion_id = models.BigIntegerField(unique=True)
    name = models.CharField(max_length=100)
    discount_percent = models.PositiveSmallIntegerField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    delivered = models.PositiveIntegerField()
    archived_at = models.DateTimeField()

    class Meta:
        ordering = ("promotion_id",)

    def __str__(self) -> str:
        return self.name
