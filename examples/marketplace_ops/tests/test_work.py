"""Workflows, agents and reports: their tasks as Celery runs them, in this process."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from unittest import mock

from ai_agents import services as agent_services
from ai_agents import tasks as agents
from ai_agents.models import (
    AITask,
    ChatMessage,
    ChatSession,
    DescriptionAnalysis,
    Feedback,
    ListingDraft,
)
from analytics import tasks as analytics
from analytics.models import DailyReport, MarketplacePerformance, Profitability, SupplierPerformance
from django.db import DataError
from django.test import TestCase
from django.utils import timezone as clock
from marketplaces.models import Listing, Order
from marketplaces.tasks import fulfill_marketplace_order, sync_all_marketplace_inventory
from orchestration import services as workflow_services
from orchestration import tasks as workflows
from orchestration.models import Workflow, WorkflowExecution
from suppliers.models import Product, SupplierSync

from tests.test_goods import NOON, sync_everything

PAUSE, REPRICE, NEVER = 1, 2, 3


class Workflows(TestCase):
    fixtures = ("demo",)

    def setUp(self) -> None:
        sync_everything()

    def test_one_is_executed(self) -> None:
        done = workflows.execute_workflow.apply((REPRICE,)).get()
        execution = WorkflowExecution.objects.get()
        self.assertEqual(done, {"execution": execution.pk, "status": "completed", "error": ""})
        self.assertEqual(
            [each["step"] for each in execution.results],
            ["require_products", "reprice_listings", "require_margin"],
        )
        # 18.50 and 60 % of it.
        self.assertEqual(Listing.objects.get(product__sku="NW-100").price, Decimal("29.60"))

    def test_listings_are_paused_and_taken_up(self) -> None:
        sync_all_marketplace_inventory()
        workflows.execute_workflow(PAUSE)
        paused = Listing.objects.filter(status="paused").values_list("product__sku", flat=True)
        self.assertEqual(list(paused), ["NW-103"])
        Product.objects.get(sku="NW-103").stock.__class__.objects.update(quantity=5)
        workflows.execute_workflow(PAUSE)
        self.assertFalse(Listing.objects.filter(status="paused").exists())

    def test_one_that_fails_leaves_nothing_but_its_error(self) -> None:
        before = list(Listing.objects.values_list("pk", "price"))
        with self.assertLogs("orchestration.tasks", "WARNING"):
            done = workflows.execute_workflow.apply((NEVER,)).get()
        self.assertEqual(done["status"], "failed")
        self.assertIn("100000 are asked for", done["error"])
        # Its first step had repriced them.
        self.assertEqual(list(Listing.objects.values_list("pk", "price")), before)

    def test_what_the_database_has_no_room_for_has_failed(self) -> None:
        refused = DataError("numeric field overflow")
        with (
            mock.patch.object(workflow_services.steps, "run", side_effect=refused),
            self.assertLogs("orchestration.tasks", "WARNING"),
        ):
            done = workflows.execute_workflow.apply((REPRICE,)).get()
        # PostgreSQL's, of a price with too many digits. Left pending it would be sent again for ever.
        self.assertEqual(done["status"], "failed")
        self.assertEqual(done["error"], "DataError: numeric field overflow")
        self.assertEqual(WorkflowExecution.objects.get().error, done["error"])

    def test_a_failed_one_is_tried_again(self) -> None:
        with self.assertLogs("orchestration.tasks", "WARNING"):
            failed = workflows.execute_workflow(NEVER)["execution"]
        Workflow.objects.filter(pk=NEVER).update(steps=[{"step": "require_products"}])
        with mock.patch.object(workflows.execute_workflow, "delay") as sent:
            done = workflows.retry_failed_workflow_execution.apply((failed,)).get()
        self.assertEqual(done, {"execution": failed, "status": "pending", "sent": True})
        sent.assert_called_once_with(NEVER, failed)
        self.assertEqual(workflows.execute_workflow(NEVER, failed)["status"], "completed")
        self.assertEqual(WorkflowExecution.objects.get().attempts, 2)
        # One that is completed is neither sent nor done again.
        with mock.patch.object(workflows.execute_workflow, "delay") as sent:
            self.assertFalse(workflows.retry_failed_workflow_execution(failed)["sent"])
        sent.assert_not_called()
        workflows.execute_workflow(NEVER, failed)
        self.assertEqual(WorkflowExecution.objects.get().attempts, 2)

    def test_a_message_that_comes_twice_is_one_execution(self) -> None:
        for _ in range(2):
            workflows.execute_workflow.apply((REPRICE,), task_id="one")
        self.assertEqual(WorkflowExecution.objects.get().attempts, 1)

    def test_what_is_due_is_sent_once(self) -> None:
        with mock.patch.object(workflows.execute_workflow, "delay") as sent:
            self.assertEqual(workflows.schedule_workflow_executions.apply().get(), {"sent": 1})
            self.assertEqual(workflows.schedule_workflow_executions.apply().get(), {"sent": 0})
        execution = WorkflowExecution.objects.get()
        sent.assert_called_once_with(PAUSE, execution.pk)
        # Of the runs missed in years only one is made; the next is within the hour, at the same minute as before.
        due = Workflow.objects.get(pk=PAUSE).next_run_at
        self.assertTrue(clock.now() < due <= clock.now() + timedelta(hours=1))
        self.assertEqual((due.minute, due.second), (0, 0))

    def test_a_message_that_is_lost_is_sent_again(self) -> None:
        key = workflow_services.make_execution(REPRICE, NOON)
        soon, later = NOON + timedelta(minutes=14), NOON + timedelta(minutes=16)
        Workflow.objects.filter(pk=PAUSE).update(is_active=False)
        self.assertEqual(workflow_services.take_due(soon), [])
        self.assertEqual(workflow_services.take_due(later), [(REPRICE, key)])
        self.assertEqual(workflow_services.take_due(later), [])

    def test_old_executions_go_and_pending_ones_stay(self) -> None:
        workflows.execute_workflow(REPRICE)
        workflows.execute_workflow(REPRICE)
        workflow_services.make_execution(REPRICE, NOON - timedelta(days=99))
        first = WorkflowExecution.objects.filter(status="completed").first()
        first.finished_at = clock.now() - timedelta(days=31)
        first.save()
        self.assertEqual(workflows.cleanup_old_executions.apply().get(), {"deleted": 1})
        self.assertEqual(workflows.cleanup_old_executions.apply().get(), {"deleted": 0})
        self.assertEqual(WorkflowExecution.objects.count(), 2)

    def test_steps_that_are_wrong_are_named(self) -> None:
        wrong = {
            "no list": {"step": "require_products"},
            "step 1: 'dance' is none of": [{"step": "dance"}],
            "step 1: None is none of": ["require_products"],
            "step 2, reprice_listings: markup_percent is 'x'": [
                {"step": "require_products"},
                {"step": "reprice_listings", "markup_percent": "x"},
            ],
            "listings are below": [
                {"step": "reprice_listings", "markup_percent": 0},
                {"step": "require_products", "minimum": 1},
                {"step": "require_margin"},
            ],
        }
        Listing.objects.filter(product__sku="NW-100").update(price=1)
        for text, steps in wrong.items():
            if "below" in text:
                steps = steps[1:]
            workflow = Workflow.objects.create(name=text, steps=steps)
            with self.subTest(text), self.assertLogs("orchestration.tasks", "WARNING"):
                self.assertIn(text, workflows.execute_workflow(workflow.pk)["error"])


class Agents(TestCase):
    fixtures = ("demo",)

    def test_a_task_is_done_once(self) -> None:
        done = agents.process_ai_task.apply((1,)).get()
        self.assertEqual((done["status"], done["result"][:2]), ("completed", ["lamp", "shade"]))
        finished = AITask.objects.get(pk=1).finished_at
        agents.process_ai_task.apply((1,))
        self.assertEqual(AITask.objects.get(pk=1).finished_at, finished)

    def test_what_no_agent_knows_has_failed_with_that_reason(self) -> None:
        with self.assertLogs("ai_agents.tasks", "WARNING"):
            self.assertEqual(agents.process_ai_task.apply((2,)).get()["status"], "failed")
        self.assertIn("'translate' is none of keywords", AITask.objects.get(pk=2).error)

    def test_descriptions_are_read_when_they_change(self) -> None:
        sync_everything()
        self.assertEqual(agents.analyze_product_descriptions.apply().get(), {"analysed": 9})
        self.assertEqual(agents.analyze_product_descriptions.apply().get(), {"analysed": 0})
        clock_ = DescriptionAnalysis.objects.get(product__sku="NW-103")
        self.assertEqual((clock_.score, len(clock_.findings)), (25, 3))
        product = clock_.product
        product.description = "A wall clock of 30 cm, which nobody hears at night."
        product.save()
        self.assertEqual(agents.analyze_product_descriptions([product.pk]), {"analysed": 1})
        clock_.refresh_from_db()
        self.assertEqual((clock_.score, clock_.findings), (100, []))

    def test_drafts_for_each_product_and_marketplace(self) -> None:
        sync_everything()
        self.assertEqual(agents.generate_marketplace_listings.apply().get(), {"drafts": 18})
        self.assertEqual(agents.generate_marketplace_listings(1), {"drafts": 9})
        self.assertEqual(ListingDraft.objects.count(), 18)
        titles = ListingDraft.objects.values_list("title", flat=True)
        self.assertTrue(all(0 < len(title) <= 80 for title in titles))

    def test_feedback_is_read_once_in_all_batches(self) -> None:
        with mock.patch.object(agent_services, "BATCH", 2):
            done = agents.analyze_customer_feedback.apply().get()
        self.assertEqual(done, {"positive": 1, "neutral": 1, "negative": 1})
        self.assertEqual(sum(agents.analyze_customer_feedback().values()), 0)
        self.assertEqual(Feedback.objects.get(pk=2).sentiment, "negative")

    def test_sessions_that_are_over_go_with_their_messages(self) -> None:
        self.assertEqual(agents.cleanup_ai_sessions.apply().get(), {"deleted": 1})
        self.assertEqual(agents.cleanup_ai_sessions.apply().get(), {"deleted": 0})
        self.assertEqual(ChatSession.objects.get().title, "One that goes on")
        self.assertFalse(ChatMessage.objects.exists())


class Reports(TestCase):
    fixtures = ("demo",)
    now = datetime(2026, 11, 20, 0, 0, 5, tzinfo=UTC)
    day = date(2026, 11, 19)

    def setUp(self) -> None:
        patched = mock.patch("django.utils.timezone.now", return_value=self.now)
        patched.start()
        self.addCleanup(patched.stop)
        sync_everything()

    def test_the_day_that_is_over_and_the_others_of_it(self) -> None:
        fulfill_marketplace_order(Order.objects.filter(ordered_at__date=self.day).first().pk)
        others = (
            "generate_supplier_performance_report",
            "generate_marketplace_performance_report",
            "calculate_profitability_metrics",
        )
        for _ in range(2):
            with (
                mock.patch.object(analytics.generate_supplier_performance_report, "delay") as one,
                mock.patch.object(
                    analytics.generate_marketplace_performance_report, "delay"
                ) as two,
                mock.patch.object(analytics.calculate_profitability_metrics, "delay") as three,
            ):
                done = analytics.generate_daily_reports.apply().get()
            self.assertEqual(done, {"day": "2026-11-19", "sent": len(others)})
            for sent in (one, two, three):
                sent.assert_called_once_with(day="2026-11-19")
        report = DailyReport.objects.get()
        self.assertEqual(
            (report.day, report.orders, report.fulfilled, report.units, report.revenue),
            (self.day, 5, 1, 9, Decimal("489.70")),
        )

    def test_suppliers(self) -> None:
        SupplierSync.objects.update(synced_at=self.now - timedelta(hours=1))
        done = analytics.generate_supplier_performance_report.apply().get()
        self.assertEqual(done, {"day": "2026-11-19", "suppliers": 4})
        analytics.generate_supplier_performance_report.apply((1,))
        self.assertEqual(SupplierPerformance.objects.count(), 4)
        found = SupplierPerformance.objects.get(supplier=1)
        self.assertEqual(
            (found.syncs, found.products, found.in_stock, found.units, found.revenue),
            (1, 4, 3, 3, Decimal("143.80")),
        )

    def test_marketplaces(self) -> None:
        for _ in range(2):
            done = analytics.generate_marketplace_performance_report.apply().get()
        self.assertEqual(done, {"day": "2026-11-19", "marketplaces": 2})
        found = {
            row.marketplace.code: (row.listings, row.orders, row.units, row.revenue)
            for row in MarketplacePerformance.objects.all()
        }
        self.assertEqual(
            found, {"bazaar": (5, 3, 5, Decimal("277.70")), "plaza": (4, 2, 4, Decimal("212.00"))}
        )

    def test_profitability(self) -> None:
        for _ in range(2):
            done = analytics.calculate_profitability_metrics.apply().get()
        self.assertEqual(done["products"], 7)
        self.assertEqual(Profitability.objects.count(), 7)
        lamp = Profitability.objects.get(product__sku="NW-100")
        # Two for 29.90 each, which cost 18.50 each; the marketplace keeps 12 %.
        self.assertEqual(
            (lamp.units, lamp.revenue, lamp.cost, lamp.commission, lamp.profit),
            (2, Decimal("59.80"), Decimal("37.00"), Decimal("7.18"), Decimal("15.62")),
        )

    def test_another_day_and_none(self) -> None:
        analytics.calculate_profitability_metrics("2026-11-18")
        self.assertFalse(Profitability.objects.exists())
        with self.assertRaisesMessage(ValueError, "'tomorrow' is no day"):
            analytics.calculate_profitability_metrics("tomorrow")
