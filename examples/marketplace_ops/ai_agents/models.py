"""What is stored. The database's constraints are rules that hold even if a task runs twice."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from marketplaces.models import Marketplace
from suppliers.models import Product


class AITask(models.Model):
    """Something that an agent is asked to do with a text."""

    class Status(models.TextChoices):
        """Completed and failed are for good."""

        PENDING = "pending"
        COMPLETED = "completed"
        FAILED = "failed"

    # One of texts.AGENTS; an unknown one fails with that reason.
    kind = models.CharField(max_length=30)
    text = models.TextField()
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "AI task"
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.pk} {self.kind} ({self.status})"


class DescriptionAnalysis(models.Model):
    """What an agent finds of a product's description."""

    product = models.OneToOneField(Product, models.CASCADE, related_name="analysis")
    score = models.PositiveSmallIntegerField()
    findings = models.JSONField(default=list)
    # Of the text that was read: the same one is not read again.
    digest = models.CharField(max_length=64)
    analysed_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "description analyses"
        ordering = ("product",)

    def __str__(self) -> str:
        return f"{self.product_id}: {self.score}"


class ListingDraft(models.Model):
    """A title and a text for a product on a marketplace, for a person to take over."""

    product = models.ForeignKey(Product, models.CASCADE, related_name="drafts")
    marketplace = models.ForeignKey(Marketplace, models.CASCADE, related_name="drafts")
    title = models.CharField(max_length=80)
    text = models.TextField()
    generated_at = models.DateTimeField()

    class Meta:
        ordering = ("marketplace", "product")
        constraints = (
            models.UniqueConstraint(
                fields=("product", "marketplace"), name="draft_once_a_marketplace"
            ),
        )

    def __str__(self) -> str:
        return self.title


class Feedback(models.Model):
    """What a customer wrote."""

    class Sentiment(models.TextChoices):
        """As an agent reads it."""

        POSITIVE = "positive"
        NEUTRAL = "neutral"
        NEGATIVE = "negative"

    product = models.ForeignKey(Product, models.CASCADE, related_name="feedback")
    text = models.TextField()
    written_at = models.DateTimeField(default=timezone.now)
    sentiment = models.CharField(max_length=10, choices=Sentiment, blank=True)
    score = models.SmallIntegerField(null=True, blank=True)
    analysed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "feedback"
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.product_id}: {self.sentiment or 'not read yet'}"


class ChatSession(models.Model):
    """A conversation with an agent."""

    title = models.CharField(max_length=100)
    last_active_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "AI chat session"
        ordering = ("-last_active_at",)

    def __str__(self) -> str:
        return self.title


class ChatMessage(models.Model):
    """One text of a conversation."""

    session = models.ForeignKey(ChatSession, models.CASCADE, related_name="messages")
    from_agent = models.BooleanField()
    text = models.TextField()

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.text[:40]
