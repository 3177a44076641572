"""The backup that the documented task writes brings back exactly what the database had when it ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import means
import pytest
from support import fleets
from support.database import admitted
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(2)

SUMS = """
    SELECT '{name}' AS name, count(*) AS n, md5(string_agg(t::text, E'\\n' ORDER BY t::text)) AS sum
      FROM "{name}" AS t
"""
# What is compared in addition to the rows: columns, constraints, indexes and the next numbers of sequences.
SHAPE = (
    """
    SELECT table_name, column_name, data_type, is_nullable, column_default, character_maximum_length
      FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
    """,
    """
    SELECT conrelid::regclass::text AS name, conname, pg_get_constraintdef(oid) AS text
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
    """,
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1",
)


def tables(fleet: Fleet, database: str) -> list[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    return [row["tablename"] for row in means.rows(fleet, database, query)]


def content(fleet: Fleet, database: str) -> dict[str, Any]:
    """Return the number of rows of each table and a checksum of them, and the schema of all tables."""
    # The names of tables come from PostgreSQL itself.
    parts = [SUMS.format(name=name) for name in tables(fleet, database)]
    rows = means.rows(fleet, database, " UNION ALL ".join(parts))
    found: dict[str, Any] = {row["name"]: (row["n"], row["sum"]) for row in rows}
    for number, query in enumerate(SHAPE):
        found[f"shape {number}"] = means.rows(fleet, database, query)
    return found


@contextmanager
def quiet(fleet: Fleet) -> Iterator[None]:
    """Stop beat and wait until all tasks have ended, so that only the test's own task writes."""
    beat = f"{fleets.app_of(fleet)}-beat.service"
    with fleets.stopped(fleet, fleet.one("celery_beat"), beat):
        wait_for("no task runs", 60, lambda: idle(fleet), pause=1)
        yield


def idle(fleet: Fleet) -> bool:
    """Return whether no task runs or waits. The status itself is bad, because beat is down."""
    found = means.ask_any(fleet, fleet.one("celery_workers"), "status")
    running = [worker.get("running") for worker in found["workers"].values()]
    waiting = [queue["waiting"] for queue in found["queues"].values()]
    return len(running) > 0 and not any(running) and not any(waiting)


@contextmanager
def empty_database(fleet: Fleet, name: str) -> Iterator[None]:
    """Make an empty database that the application's user owns, and can reach from the hosts of its workers."""
    user = fleet.of("postgresql")["postgresql_user"]
    # As in examples/postgresql.yml, because the cluster's own encoding may differ.
    made = f'CREATE DATABASE "{name}" OWNER "{user}" TEMPLATE template0 ENCODING UTF8 LOCALE "C.UTF-8";'
    means.psql(fleet, "postgres", f"{made}\n")
    try:
        with admitted(fleet, name):
            yield
    finally:
        means.psql(fleet, "postgres", f'DROP DATABASE "{name}" WITH (FORCE);\n')


def test_backup_restored_into_an_empty_database_equals_the_original(
    market: Fleet, label: str
) -> None:
    """The task records its own run after the backup, so the comparison is with the content before it."""
    original, restored = str(market.of("postgresql")["postgresql_database"]), f"restored_{label}"
    with quiet(market):
        before = content(market, original)
        made = means.run(market, "core.tasks.backup_database")["result"]
    assert sum(rows for rows, _ in counted(before)) > 30, "there is next to nothing to lose"
    host, path = made["host"], made["path"]
    assert market.must(host, ["stat", "-c", "%U %a", path]).split() == [
        market.of("fleet")["celery_app_user"],
        "600",
    ]
    assert market.must(host, ["sha256sum", path]).split()[0] == made["sha256"]
    with empty_database(market, restored):
        words = [
            "exec",
            "--",
            "python",
            "manage.py",
            "restore_backup",
            path,
            "--database",
            restored,
        ]
        fleets.must(market, host, words)
        assert content(market, restored) == before
        # A backup is not restored over existing content.
        again = fleets.call(market, host, words)
        assert (again.status != 0, "empty" in again.text) == (True, True), again.text


def counted(found: dict[str, Any]) -> list[tuple[int, str]]:
    return [value for name, value in found.items() if not name.startswith("shape ")]
