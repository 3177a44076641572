"""What the two documents say, typed here by hand: queues, tasks, concurrencies, the default entries."""

from __future__ import annotations

from dataclasses import dataclass

# --- marketplace_ops -------------------------------------------------------------------------------

# Queue -> how many tasks its worker runs at once.
CONCURRENCIES = {
    "suppliers": 2,
    "marketplaces": 3,
    "workflows": 2,
    "ai_processing": 1,
    "analytics": 1,
    "maintenance": 1,
}

# Queue -> its tasks. The document names 26 of them; cleanup_ai_sessions is for its entry "AI Session Cleanup".
TASKS = {
    "suppliers": (
        "suppliers.tasks.sync_all_suppliers",
        "suppliers.tasks.sync_supplier_products",
        "suppliers.tasks.test_supplier_connection",
        "suppliers.tasks.update_supplier_inventory",
        "suppliers.tasks.cleanup_supplier_data",
    ),
    "marketplaces": (
        "marketplaces.tasks.sync_all_marketplace_orders",
        "marketplaces.tasks.sync_all_marketplace_inventory",
        "marketplaces.tasks.sync_marketplace_listings",
        "marketplaces.tasks.sync_marketplace_orders",
        "marketplaces.tasks.fulfill_marketplace_order",
    ),
    "workflows": (
        "orchestration.tasks.execute_workflow",
        "orchestration.tasks.schedule_workflow_executions",
        "orchestration.tasks.retry_failed_workflow_execution",
        "orchestration.tasks.cleanup_old_executions",
    ),
    "ai_processing": (
        "ai_agents.tasks.process_ai_task",
        "ai_agents.tasks.analyze_product_descriptions",
        "ai_agents.tasks.generate_marketplace_listings",
        "ai_agents.tasks.analyze_customer_feedback",
        "ai_agents.tasks.cleanup_ai_sessions",
    ),
    "analytics": (
        "analytics.tasks.generate_daily_reports",
        "analytics.tasks.generate_supplier_performance_report",
        "analytics.tasks.generate_marketplace_performance_report",
        "analytics.tasks.calculate_profitability_metrics",
    ),
    "maintenance": (
        "core.tasks.system_health_check",
        "core.tasks.cleanup_system_logs",
        "core.tasks.database_maintenance",
        "core.tasks.backup_database",
    ),
}
QUEUES = {task: queue for queue, tasks in TASKS.items() for task in tasks}


@dataclass(frozen=True)
class Every:
    """An interval schedule, in seconds."""

    seconds: int


@dataclass(frozen=True)
class At:
    """A schedule at a time of day, in UTC; `day` is the day of the week, Sunday 0, and -1 means each."""

    hour: int
    minute: int = 0
    day: int = -1


# Entry -> its task and when it runs.
ENTRIES: dict[str, tuple[str, Every | At]] = {
    "Sync All Suppliers": ("suppliers.tasks.sync_all_suppliers", Every(3600)),
    "Sync Marketplace Orders": ("marketplaces.tasks.sync_all_marketplace_orders", Every(900)),
    "Sync Marketplace Inventory": (
        "marketplaces.tasks.sync_all_marketplace_inventory",
        Every(1800),
    ),
    "System Health Check": ("core.tasks.system_health_check", Every(300)),
    "Generate Daily Reports": ("analytics.tasks.generate_daily_reports", At(0)),
    "Clean Up Old Executions": ("orchestration.tasks.cleanup_old_executions", At(2)),
    "Database Maintenance": ("core.tasks.database_maintenance", At(3, day=0)),
    "System Log Cleanup": ("core.tasks.cleanup_system_logs", At(4, day=0)),
    "Database Backup": ("core.tasks.backup_database", At(3)),
    "AI Session Cleanup": ("ai_agents.tasks.cleanup_ai_sessions", At(1)),
}

# --- processing ------------------------------------------------------------------------------------

TIME_LIMIT = 60 * 60  # seconds; the hard limit of every task
TASK = "process_data_task"
WEB_PORT = 5000  # gunicorn's, on every address
