"""Each of the 27 tasks, sent by the operator's command, runs on its queue and leaves its effect in PostgreSQL."""

# ruff: noqa: S608  # all SQL here is the tests' own text

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import documented
import means
import pytest
from support import database, fleets
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

OLD = "now() - interval '400 days'"
YESTERDAY = "((now() AT TIME ZONE 'UTC')::date - 1)"
SUPPLIER = "(SELECT min(id) FROM suppliers_supplier WHERE is_active)"
MARKETPLACE = "(SELECT min(id) FROM marketplaces_marketplace WHERE is_active)"
PRODUCT = "(SELECT min(id) FROM suppliers_product WHERE retired_at IS NULL)"
# The demo workflow whose steps succeed with any number in stock.
WORKFLOW = "(SELECT id FROM orchestration_workflow WHERE name = 'Reprice')"
EXECUTION = "(SELECT max(id) FROM orchestration_workflowexecution)"
ORDER = "(SELECT max(id) FROM marketplaces_order)"
REPORTS = (
    "analytics_dailyreport",
    "analytics_supplierperformance",
    "analytics_marketplaceperformance",
    "analytics_profitability",
)


@dataclass(frozen=True)
class Case:
    """How the database is prepared for a task, how the task is called, and what must hold afterwards.

    Attributes:
        holds: An SQL condition; `:'id'` in it is the task's id.
        before: Statements that undo its effect, so that the condition does not hold before.
        args: An SQL expression whose value is a JSON list.
        kwargs: Its arguments by name.
    """

    holds: str
    before: str = ""
    args: str = "'[]'::json"
    kwargs: dict[str, Any] | None = None


def noted(kind: str) -> Case:
    """Return the condition that a task has recorded its run."""
    return Case(
        "(SELECT count(*) = 1 FROM core_maintenancerun"
        f" WHERE kind = '{kind}' AND task_id = :'id' AND result <> '{{}}'::jsonb)"
    )


def report(table: str) -> Case:
    """Return the case of yesterday's report, which is deleted and made again."""
    return Case(
        f"EXISTS (SELECT FROM {table} WHERE day = {YESTERDAY})",
        f"DELETE FROM {table}",
    )


CASES = {
    # --- suppliers ---
    "suppliers.tasks.sync_all_suppliers": Case(
        "(SELECT bool_and(synced_at IS NOT NULL) FROM suppliers_supplier WHERE is_active)",
        "UPDATE suppliers_supplier SET synced_at = NULL",
    ),
    "suppliers.tasks.sync_supplier_products": Case(
        f"""NOT EXISTS (SELECT FROM suppliers_product WHERE name = 'undone')
            AND (SELECT count(*) = 1 FROM suppliers_suppliersync
                  WHERE supplier_id = {SUPPLIER} AND task_id = :'id' AND "full" AND updated > 0)""",
        f"UPDATE suppliers_product SET name = 'undone' WHERE supplier_id = {SUPPLIER} AND retired_at IS NULL",
        f"json_build_array({SUPPLIER})",
        {"force_full_sync": True},
    ),
    "suppliers.tasks.test_supplier_connection": Case(
        f"(SELECT connection_ok AND connection_at IS NOT NULL FROM suppliers_supplier WHERE id = {SUPPLIER})",
        "UPDATE suppliers_supplier SET connection_ok = NULL, connection_at = NULL",
        f"json_build_array({SUPPLIER})",
    ),
    "suppliers.tasks.update_supplier_inventory": Case(
        """NOT EXISTS (SELECT FROM suppliers_stock AS s JOIN suppliers_product AS p ON p.id = s.product_id
                        JOIN suppliers_supplier AS u ON u.id = p.supplier_id
                       WHERE u.is_active AND s.quantity >= 1000000)""",
        "UPDATE suppliers_stock SET quantity = quantity + 1000000",
    ),
    "suppliers.tasks.cleanup_supplier_data": Case(
        f"NOT EXISTS (SELECT FROM suppliers_suppliersync WHERE synced_at <= {OLD})",
        f"""UPDATE suppliers_suppliersync SET synced_at = {OLD}
             WHERE id = (SELECT min(id) FROM suppliers_suppliersync)""",
    ),
    # --- marketplaces ---
    "marketplaces.tasks.sync_all_marketplace_orders": Case(
        "(SELECT bool_and(orders_at IS NOT NULL) FROM marketplaces_marketplace WHERE is_active)",
        "UPDATE marketplaces_marketplace SET orders_at = NULL",
    ),
    "marketplaces.tasks.sync_all_marketplace_inventory": Case(
        """(SELECT count(*) > 0 AND bool_and(l.quantity = coalesce(s.quantity, 0))
              FROM marketplaces_listing AS l LEFT JOIN suppliers_stock AS s ON s.product_id = l.product_id)""",
        "UPDATE marketplaces_listing SET quantity = NULL",
    ),
    "marketplaces.tasks.sync_marketplace_listings": Case(
        f"""EXISTS (SELECT FROM marketplaces_listing WHERE marketplace_id = {MARKETPLACE} AND title <> 'undone')
            AND (SELECT listings_at IS NOT NULL FROM marketplaces_marketplace WHERE id = {MARKETPLACE})""",
        f"""UPDATE marketplaces_marketplace SET listings_at = NULL;
            UPDATE marketplaces_listing SET title = 'undone' WHERE marketplace_id = {MARKETPLACE}""",
        f"json_build_array({MARKETPLACE})",
    ),
    "marketplaces.tasks.sync_marketplace_orders": Case(
        f"""EXISTS (SELECT FROM marketplaces_orderline AS l JOIN marketplaces_order AS o ON o.id = l.order_id
                     WHERE o.marketplace_id = {MARKETPLACE})""",
        f"""DELETE FROM marketplaces_orderline
             WHERE order_id IN (SELECT id FROM marketplaces_order WHERE marketplace_id = {MARKETPLACE});
            DELETE FROM marketplaces_order WHERE marketplace_id = {MARKETPLACE}""",
        f"json_build_array({MARKETPLACE})",
    ),
    "marketplaces.tasks.fulfill_marketplace_order": Case(
        f"""(SELECT status = 'fulfilled' AND fulfilled_at IS NOT NULL AND tracking_number = 'T-1'
               FROM marketplaces_order WHERE id = {ORDER})""",
        f"""UPDATE marketplaces_order SET status = 'new', fulfilled_at = NULL, tracking_number = ''
             WHERE id = {ORDER}""",
        f"json_build_array({ORDER}, 'T-1')",
    ),
    # --- workflows ---
    "orchestration.tasks.execute_workflow": Case(
        f"""(SELECT count(*) = 1 FROM orchestration_workflowexecution
              WHERE workflow_id = {WORKFLOW} AND task_id = :'id' AND status = 'completed'
                AND finished_at IS NOT NULL)""",
        args=f"json_build_array({WORKFLOW})",
    ),
    "orchestration.tasks.schedule_workflow_executions": Case(
        """EXISTS (SELECT FROM orchestration_workflowexecution
                    WHERE scheduled_for > now() - interval '1 hour' AND status = 'completed')""",
        """DELETE FROM orchestration_workflowexecution WHERE scheduled_for IS NOT NULL;
           UPDATE orchestration_workflow SET next_run_at = now() - interval '1 minute'
            WHERE interval_minutes IS NOT NULL""",
    ),
    "orchestration.tasks.retry_failed_workflow_execution": Case(
        f"""(SELECT status <> 'failed' AND error = '' AND attempts = 2
               FROM orchestration_workflowexecution WHERE id = {EXECUTION})""",
        f"""INSERT INTO orchestration_workflowexecution
                   (workflow_id, status, created_at, finished_at, task_id, attempts, results, error)
            SELECT {WORKFLOW}, 'failed', now(), now(), '', 1, '[]', 'it was away'""",
        f"json_build_array({EXECUTION})",
    ),
    "orchestration.tasks.cleanup_old_executions": Case(
        f"NOT EXISTS (SELECT FROM orchestration_workflowexecution WHERE finished_at <= {OLD})",
        f"""INSERT INTO orchestration_workflowexecution
                   (workflow_id, status, created_at, finished_at, task_id, attempts, results, error)
            SELECT {WORKFLOW}, 'completed', {OLD}, {OLD}, '', 1, '[]', ''""",
    ),
    # --- ai_processing ---
    "ai_agents.tasks.process_ai_task": Case(
        """(SELECT status = 'completed' AND result IS NOT NULL AND finished_at IS NOT NULL
              FROM ai_agents_aitask ORDER BY id DESC LIMIT 1)""",
        """INSERT INTO ai_agents_aitask (kind, text, status, error, created_at)
           VALUES ('sentiment', 'A good lamp, and a bad shade.', 'pending', '', now())""",
        "(SELECT json_build_array(max(id)) FROM ai_agents_aitask)",
    ),
    "ai_agents.tasks.analyze_product_descriptions": Case(
        """(SELECT count(*) FROM ai_agents_descriptionanalysis)
           = (SELECT count(*) FROM suppliers_product WHERE retired_at IS NULL)
           AND EXISTS (SELECT FROM ai_agents_descriptionanalysis)""",
        "DELETE FROM ai_agents_descriptionanalysis",
    ),
    "ai_agents.tasks.generate_marketplace_listings": Case(
        """(SELECT count(*) FROM ai_agents_listingdraft)
           = (SELECT count(*) FROM suppliers_product WHERE retired_at IS NULL)
             * (SELECT count(*) FROM marketplaces_marketplace WHERE is_active)
           AND EXISTS (SELECT FROM ai_agents_listingdraft)""",
        "DELETE FROM ai_agents_listingdraft",
    ),
    "ai_agents.tasks.analyze_customer_feedback": Case(
        "(SELECT count(*) > 0 AND bool_and(analysed_at IS NOT NULL AND sentiment <> '') FROM ai_agents_feedback)",
        f"""UPDATE ai_agents_feedback SET analysed_at = NULL, sentiment = '', score = NULL;
            INSERT INTO ai_agents_feedback (product_id, text, written_at, sentiment)
            SELECT {PRODUCT}, 'I like it.', now(), ''""",
    ),
    "ai_agents.tasks.cleanup_ai_sessions": Case(
        f"NOT EXISTS (SELECT FROM ai_agents_chatsession WHERE last_active_at <= {OLD})",
        f"INSERT INTO ai_agents_chatsession (title, last_active_at) VALUES ('long ago', {OLD})",
    ),
    # --- analytics ---
    # This task sends the three others, which must have ended before their own cases run.
    "analytics.tasks.generate_daily_reports": Case(
        " AND ".join(report(table).holds for table in REPORTS),
        "; ".join(report(table).before for table in REPORTS),
    ),
    "analytics.tasks.generate_supplier_performance_report": report(REPORTS[1]),
    "analytics.tasks.generate_marketplace_performance_report": report(REPORTS[2]),
    "analytics.tasks.calculate_profitability_metrics": report(REPORTS[3]),
    # --- maintenance ---
    "core.tasks.system_health_check": noted("health"),
    "core.tasks.cleanup_system_logs": noted("logs"),
    "core.tasks.database_maintenance": noted("database"),
    "core.tasks.backup_database": noted("backup"),
}  # fmt: skip


def holds(fleet: Fleet, case: Case, identity: str) -> bool:
    return bool(database.query(fleet, f"SELECT ({case.holds}) AS so", id=identity)[0]["so"])


@pytest.fixture(scope="module", autouse=True)
def stocked(market: Fleet) -> None:
    """Fetch what suppliers and marketplaces list, so that there is something to undo."""
    fleets.run(market, "suppliers.tasks.sync_all_suppliers")
    text = "SELECT bool_and(digest <> '') AS so FROM suppliers_supplier WHERE is_active"
    wait_for("all suppliers are read", 30, lambda: database.query(market, text)[0]["so"])
    for marketplace in (1, 2):
        fleets.run(market, "marketplaces.tasks.sync_marketplace_listings", marketplace)
        fleets.run(market, "marketplaces.tasks.sync_marketplace_orders", marketplace)


def test_there_is_a_case_for_every_documented_task() -> None:
    assert CASES.keys() == documented.QUEUES.keys()


@pytest.mark.parametrize("task", CASES)
def test_runs_on_its_queue_and_leaves_its_effect(market: Fleet, task: str) -> None:
    case = CASES[task]
    if case.before:
        database.execute(market, case.before)
    assert not holds(market, case, "none"), "its effect is there before it has run"
    args = database.query(market, f"SELECT {case.args} AS args")[0]["args"]
    done = means.run(market, task, *args, **(case.kwargs or {}))
    assert (done["task"], done["state"], done["ok"]) == (task, "SUCCESS", True)
    # Some tasks send others that have the effect.
    wait_for("its effect", 30, lambda: holds(market, case, done["id"]), pause=0.3)
    # The queue is what the worker reports, not the sender's route.
    queue = documented.QUEUES[task]
    assert (done["queue"], fleets.ran_on(market, done["id"])) == (queue, [queue])


def test_workers_register_exactly_the_documented_tasks(market: Fleet) -> None:
    """Every worker has them, in addition to those of Celery and the fleet."""
    found = means.ask(market, market.one("celery_workers"), "registered")
    assert found.keys() == fleets.nodes(market).keys()
    for node, tasks in found.items():
        listed = {text.split()[0] for text in tasks}
        own = {name for name in listed if not name.startswith(("celery.", "celery_fleet."))}
        assert own == documented.QUEUES.keys(), node


def test_workflow_that_fails_keeps_its_reason(market: Fleet) -> None:
    """The demo has such a workflow. The task itself succeeds, and retrying does not help."""
    text = "SELECT id FROM orchestration_workflow WHERE name LIKE 'Wait for%'"
    workflow = database.query(market, text)[0]["id"]
    done = means.run(market, "orchestration.tasks.execute_workflow", workflow)
    assert done["result"]["status"] == "failed"
    assert done["result"]["error"]
    stored = database.query(
        market,
        "SELECT status, error FROM orchestration_workflowexecution WHERE task_id = :'id'",
        id=done["id"],
    )
    assert stored == [{"status": "failed", "error": done["result"]["error"]}]
    assert "Traceback" not in json.dumps(done)
