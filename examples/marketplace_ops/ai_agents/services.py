"""The work itself, without Celery. Each function can be repeated, and can run twice at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from ai_agents import texts
from ai_agents.models import AITask, ChatSession, DescriptionAnalysis, Feedback, ListingDraft
from marketplaces.models import Marketplace
from suppliers.models import Product

# Rows in one transaction.
BATCH = 200


@transaction.atomic
def process(ai_task_id: int, now: datetime) -> AITask:
    """Have a pending task done by its agent; one that is done is left as it is. Raises AITask.DoesNotExist."""
    task = AITask.objects.select_for_update().get(pk=ai_task_id)
    if task.status != AITask.Status.PENDING:
        return task
    agent = texts.AGENTS.get(task.kind)
    if agent is None:
        known = ", ".join(sorted(texts.AGENTS))
        task.status, task.error = AITask.Status.FAILED, f"{task.kind!r} is none of {known}"
    else:
        task.status, task.result = AITask.Status.COMPLETED, agent(task.text)
    task.finished_at = now
    task.save()
    return task


@transaction.atomic
def analyse_descriptions(product_ids: Sequence[int] | None, now: datetime) -> int:
    """Read the descriptions that are new or have changed; how many."""
    rows = []
    for product in _products(product_ids).select_related("analysis"):
        digest = hashlib.sha256(f"{product.name}\n{product.description}".encode()).hexdigest()
        if hasattr(product, "analysis") and product.analysis.digest == digest:
            continue
        score, findings = texts.rate(product.name, product.description)
        rows.append(
            DescriptionAnalysis(
                product=product, score=score, findings=findings, digest=digest, analysed_at=now
            )
        )
    DescriptionAnalysis.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["product"],
        update_fields=["score", "findings", "digest", "analysed_at"],
    )
    return len(rows)


@transaction.atomic
def draft_listings(
    marketplace_id: int | None, product_ids: Sequence[int] | None, now: datetime
) -> int:
    """Write a draft for each product and active marketplace, in the place of an older one; how many."""
    if marketplace_id is None:
        marketplaces = list(Marketplace.objects.filter(is_active=True))
    else:
        marketplaces = [Marketplace.objects.get(pk=marketplace_id)]
    rows = []
    for product in _products(product_ids):
        title, text = texts.draft(product.name, product.description)
        rows += [
            ListingDraft(
                product=product, marketplace=marketplace, title=title, text=text, generated_at=now
            )
            for marketplace in marketplaces
        ]
    ListingDraft.objects.bulk_create(
        rows,
        batch_size=BATCH,
        update_conflicts=True,
        unique_fields=["product", "marketplace"],
        update_fields=["title", "text", "generated_at"],
    )
    return len(rows)


@transaction.atomic
def analyse_feedback(now: datetime) -> dict[str, int]:
    """Read up to BATCH texts of customers that were not read yet; return how many there are of each kind."""
    rows = list(
        Feedback.objects.select_for_update(skip_locked=True).filter(analysed_at=None)[:BATCH]
    )
    counts: dict[str, int] = {kind: 0 for kind in Feedback.Sentiment.values}
    for row in rows:
        row.score, row.sentiment = texts.sentiment(row.text)
        row.analysed_at = now
        counts[row.sentiment] += 1
    Feedback.objects.bulk_update(rows, ["score", "sentiment", "analysed_at"])
    return counts


def clean_up_sessions(before: datetime) -> int:
    """Delete conversations in which nothing was said since; how many."""
    old = ChatSession.objects.filter(last_active_at__lt=before)
    deleted: dict[str, Any] = old.delete()[1]
    return int(deleted.get("ai_agents.ChatSession", 0))


def _products(product_ids: Sequence[int] | None) -> Any:
    found = Product.objects.filter(retired_at=None)
    return found if product_ids is None else found.filter(pk__in=product_ids)
