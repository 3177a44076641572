"""Connections to PostgreSQL, given by DATABASE_URL (a libpq connection string or URL)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

DEFAULT_DATABASE_URL = "postgresql:///flexiprice"

Pool = ConnectionPool[Connection[DictRow]]


@cache
def _pool_of(pid: int) -> Pool:
    """The pool of one process: a connection shared across a fork would mix the answers."""
    return ConnectionPool(
        os.environ.get("DATABASE_URL", DEFAULT_DATABASE_URL),
        connection_class=Connection[DictRow],
        kwargs={
            "row_factory": dict_row,
            "application_name": f"flexiprice-{pid}",
            "connect_timeout": 5,
            # A peer that vanished is noticed after 10 s, not after the kernel's quarter of an hour.
            "keepalives_idle": 10,
            "tcp_user_timeout": 10_000,
            # "Today" must be the same day for every client.
            "options": "-c timezone=UTC -c lock_timeout=60s",
        },
        # None is opened before it is needed, and none is kept long: most pool processes sit idle.
        min_size=0,
        max_size=8,
        max_idle=60.0,
        timeout=10.0,
        # The pool doubles its pause between attempts. Because it gives up early, a long outage does not lead to a long
        # pause: the next request tries again.
        reconnect_timeout=5.0,
        # Asks the connection before handing it out: the database may have been restarted.
        check=ConnectionPool.check_connection,
        open=True,
    )


@contextmanager
def transaction() -> Iterator[Connection[DictRow]]:
    """Yield a connection in a transaction: committed at the end, rolled back after an exception.

    Raises psycopg.OperationalError where no connection can be had within 10 s.
    """
    with _pool_of(os.getpid()).connection() as connection:
        yield connection


def one(connection: Connection[DictRow], query: LiteralString, **parameters: Any) -> DictRow:
    """The first row that `query` gives; for queries that always give one."""
    row = connection.execute(query, parameters).fetchone()
    if row is None:
        raise LookupError("the query gave no row")
    return row


def close() -> None:
    """Close this process's pool and its threads; the next use would open a new one."""
    _pool_of(os.getpid()).close()
    _pool_of.cache_clear()
