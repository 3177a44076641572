"""Marks that tasks leave in the database, which show that each ran, where, and how often."""

from __future__ import annotations

from app import db

_BEGIN = """
INSERT INTO task_runs (run_id, attempt, task_id, node, pid, is_redelivered)
SELECT %(run_id)s, count(*) + 1, %(task_id)s, %(node)s, %(pid)s, %(is_redelivered)s
  FROM task_runs
 WHERE run_id = %(run_id)s
RETURNING id, attempt
"""

_END = "UPDATE task_runs SET finished_at = clock_timestamp() WHERE id = %(id)s RETURNING attempt"

_TICK = """
WITH old AS (
    DELETE FROM task_ticks WHERE ticked_at < now() - interval '1 day'
)
INSERT INTO task_ticks (source, task_id, node)
VALUES (%(source)s, %(task_id)s, %(node)s)
RETURNING id
"""


def begin_run(
    run_id: str, *, task_id: str, node: str, pid: int, is_redelivered: bool
) -> tuple[int, int]:
    """Record that a run begins; give its row and which attempt at `run_id` it is, from 1."""
    with db.transaction() as connection:
        # Two attempts that begin at the same instant must not take the same number.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"run:{run_id}"])
        row = db.one(
            connection,
            _BEGIN,
            run_id=run_id,
            task_id=task_id,
            node=node,
            pid=pid,
            is_redelivered=is_redelivered,
        )
    return row["id"], row["attempt"]


def end_run(row: int) -> None:
    """Record that the run in `row` came to its end."""
    with db.transaction() as connection:
        db.one(connection, _END, id=row)


def tick(source: str, *, task_id: str, node: str) -> int:
    """Record one tick of `source`; ticks older than a day go. Gives the number of the row."""
    with db.transaction() as connection:
        return int(db.one(connection, _TICK, source=source, task_id=task_id, node=node)["id"])
