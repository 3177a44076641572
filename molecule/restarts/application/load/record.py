"""The record in PostgreSQL, outside the broker: who sent what, and each start and end of each attempt.

Rows are written at once, one statement each, so that a process that is killed right after has recorded all it did.
`synchronous_commit` is off, because the database itself is never killed here. A pair of rows costs a process less than
a millisecond.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import psycopg

_connections: dict[int, psycopg.Connection[Any]] = {}

_START = """
INSERT INTO runs (task, attempt, node, pid, started, message)
VALUES (%s, %s, %s, %s, %s, %s) RETURNING id
"""
_END = "UPDATE runs SET ended = %s, retry_at = %s WHERE id = %s"
_SEND = """
INSERT INTO sends (task, run, kind, queue, seconds, attempts, sent, ready, refused)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_WORKER = (
    "INSERT INTO workers (node, pid, event, queues, processes, at) VALUES (%s, %s, %s, %s, %s, %s)"
)
_REVOKED = "INSERT INTO revoked (task, node, at) VALUES (%s, %s, %s)"
_HELD_UP = "INSERT INTO held_up (task, attempt, node, at) VALUES (%s, %s, %s, %s)"


def now() -> float:
    """Return Unix time, even if a test gives this process a wrong clock: then the test provides the right time."""
    offset = os.environ.get("LOAD_MONOTONIC_OFFSET")
    return time.time() if offset is None else time.monotonic() + float(offset)


def connect() -> psycopg.Connection[Any]:
    """Return a connection to LOAD_DATABASE_URL that commits each statement."""
    return psycopg.connect(
        os.environ["LOAD_DATABASE_URL"],
        autocommit=True,
        options="-c synchronous_commit=off",
        connect_timeout=5,
    )


def _own() -> psycopg.Connection[Any]:
    """Return this process's connection: one that was made before a fork is the parent's."""
    connection = _connections.get(os.getpid())
    if connection is None or connection.closed:
        connection = _connections[os.getpid()] = connect()
    return connection


def start(task: str, attempt: int, node: str, message: str) -> int:
    """Record that an attempt begins; return the number of its row."""
    values = (task, attempt, node, os.getpid(), now(), message)
    row = _own().execute(_START, values).fetchone()
    if row is None:
        raise RuntimeError("INSERT … RETURNING gave no row")
    return int(row[0])


def end(row: int, retry_at: float | None = None) -> None:
    """Record that the attempt in `row` has ended, and when the next one is due, if there is one."""
    _own().execute(_END, (now(), retry_at, row))


def sends(rows: Sequence[tuple[Any, ...]]) -> None:
    """Record what was sent: task, run, kind, queue, seconds, attempts, sent, ready, refused."""
    with _own().cursor() as cursor:
        cursor.executemany(_SEND, rows)


def note_worker(node: str, event: str, queues: Sequence[str], processes: int) -> None:
    """Record what a worker's main process does.

    This uses a separate connection, because one that the pool's processes inherit is closed by the first that exits.
    """
    with connect() as connection:
        values = (node, os.getpid(), event, list(queues), processes, now())
        connection.execute(_WORKER, values)


def note_revoked(task: str, node: str) -> None:
    """Record that a worker's main process skipped a revoked task, also on a separate connection."""
    with connect() as connection:
        connection.execute(_REVOKED, (task, node, now()))


def note_held_up(task: str, attempt: int, node: str) -> None:
    """Record that a sender waited for the broker. It may be a worker's main process, so use a separate connection."""
    with connect() as connection:
        connection.execute(_HELD_UP, (task, attempt, node, now()))
