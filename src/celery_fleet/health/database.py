"""Log in to databases as the application would: ``python -m celery_fleet.health.database`` in the release's Python.

    {"urls": {"DATABASE_URL": "postgresql://…"}, "timeout": 8}

on standard input, so that no password is in a command line; prints

    {"DATABASE_URL": {"ok": true, "seconds": 0.02, "how": "psycopg"}}

and never takes longer than the timeout and a second. Drivers are those that the release has; where it has none for a
database, all that can be told is whether its port takes connections. Neither Django nor the application is imported.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from celery_fleet.common.redact import redact

#: Seconds until a server has to take a connection, and to answer.
CONNECT = 5

#: What schemes of a database's URL stand for; a driver may be named behind a `+`.
POSTGRESQL = ("postgres", "postgresql", "pgsql", "postgis")
MYSQL = ("mysql", "mariadb", "mysqlgis")
FILES = ("sqlite", "spatialite")
_PORTS = {**dict.fromkeys(POSTGRESQL, 5432), **dict.fromkeys(MYSQL, 3306)}
#: Further databases, of which no more is asked than whether they take connections.
_OTHERS = {
    "oracle": 1521,
    "mssql": 1433,
    "cockroachdb": 26257,
    "mongodb": 27017,
    "clickhouse": 9000,
}

#: Parameters of a URL that are libpq's; Django's and SQLAlchemy's own would be refused.
_LIBPQ = (
    *("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "options", "service"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslsni"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding", "require_auth"),
    *("gssencmode", "krbsrvname", "target_session_attrs", "load_balance_hosts"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
)


def scheme_of(url: str) -> str:
    """The database that a URL is of, without its driver; nothing where it is of none that is known."""
    scheme = url.partition("://")[0].partition("+")[0].lower() if "://" in url else ""
    known = (*POSTGRESQL, *MYSQL, *FILES, *_OTHERS)
    return scheme if scheme in known else ""


def _query(parts: SplitResult, *left_out: str) -> list[tuple[str, str]]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return [(name, value) for name, value in pairs if name in _LIBPQ and name not in left_out]


def _postgresql(parts: SplitResult, query: list[tuple[str, str]]) -> str:
    # To libpq a `+` is a plus sign, not a blank.
    return f"postgresql://{parts.netloc}{parts.path}?{urlencode(query, quote_via=quote)}"


def libpq(parts: SplitResult) -> str:
    """The URL as libpq reads it."""
    return _postgresql(parts, [*_query(parts), ("connect_timeout", str(CONNECT))])


def _select(connection: Any) -> None:
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.fetchone()
    finally:
        connection.close()


def _by_libpq(driver: Any, parts: SplitResult) -> None:
    _select(driver.connect(libpq(parts)))


def _by_asyncpg(driver: Any, parts: SplitResult) -> None:
    async def ask() -> None:
        # asyncpg would take it for a setting of the server.
        dsn = _postgresql(parts, _query(parts, "channel_binding"))
        connection = await driver.connect(dsn, timeout=CONNECT, command_timeout=CONNECT)
        try:
            await connection.fetchval("SELECT 1")
        finally:
            await connection.close()

    asyncio.run(ask())


def _by_mysql(driver: Any, parts: SplitResult) -> None:
    # MySQLdb and PyMySQL take the same names.
    options: dict[str, Any] = {
        "host": unquote(parts.hostname or "localhost"),
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.lstrip("/")),
        "connect_timeout": CONNECT,
    }
    _select(driver.connect(**{name: value for name, value in options.items() if value != ""}))


_By = Callable[[Any, SplitResult], None]
_DRIVERS: Mapping[tuple[str, ...], Sequence[tuple[str, _By]]] = {
    POSTGRESQL: (
        ("psycopg", _by_libpq),
        ("psycopg2", _by_libpq),
        ("asyncpg", _by_asyncpg),
    ),
    MYSQL: (("MySQLdb", _by_mysql), ("pymysql", _by_mysql)),
}
#: Names of drivers in URLs that are not those of their modules.
_MODULES = {"mysqldb": "MySQLdb", "mysqlclient": "MySQLdb", "psycopg2cffi": "psycopg2"}


def driver_for(scheme: str, named: str) -> tuple[Any, str, _By] | None:
    """A driver that is there, with its name and how to use it; the one that the URL names before others."""
    for schemes, drivers in _DRIVERS.items():
        if scheme not in schemes:
            continue
        first = _MODULES.get(named, named)
        for name, use in sorted(drivers, key=lambda driver: driver[0] != first):
            try:
                return importlib.import_module(name), name, use
            except ImportError:
                continue
    return None


def look(url: str) -> str:
    """Log in and ask for 1, or else connect; how it was done.

    Raises:
        Exception: It failed.
    """
    parts = urlsplit(url)
    named = parts.scheme.partition("+")[2]
    scheme = scheme_of(url)
    if scheme in FILES:
        return "a file, which is not looked at"
    if (found := driver_for(scheme, named)) is not None:
        driver, name, use = found
        use(driver, parts)
        return name
    host, port = unquote(parts.hostname or "localhost"), parts.port
    socket.create_connection((host, port or _PORTS.get(scheme) or _OTHERS[scheme]), CONNECT).close()
    return "no driver to log in with: its port takes connections"


def secrets_of(url: str) -> list[str]:
    """The passwords of a URL, quoted and unquoted.

    Of one whose password is not quoted as it has to be each part as well: whoever can't read the URL says which.
    """
    before, _, behind = url.partition("://")[2].rpartition("@")
    password = before.partition(":")[2]
    query = parse_qsl(behind.partition("?")[2])
    found = [password, *re.split(r"[/?#\[\]@:]", password)]
    found += [value for name, value in query if "pass" in name.lower()]
    return [*found, *map(unquote, found)]


def answer(url: str) -> dict[str, Any]:
    """What to say of one URL; never an exception, and never its password."""
    began = time.monotonic()
    try:
        how = look(url)
    except Exception as error:  # noqa: BLE001  # whatever a driver raises is the answer
        words = " ".join(str(error).split()) or type(error).__name__
        return {"ok": False, "error": redact(words, secrets_of(url))}
    return {"ok": True, "seconds": round(time.monotonic() - began, 3), "how": how}


def run(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The answers by the deadline, each asked beside the others."""
    timeout = float(request["timeout"])
    found: dict[str, dict[str, Any]] = {}

    def put(name: str, url: str) -> None:
        found[name] = answer(url)

    threads = [
        threading.Thread(target=put, args=(str(name), str(url)), daemon=True)
        for name, url in request["urls"].items()
    ]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = {"ok": False, "error": f"no answer within {timeout:g} s"}
    return {name: dict(found.get(name, late)) for name in request["urls"]}


def main() -> int:
    """Read the request, print the answers."""
    print(json.dumps(run(json.loads(sys.stdin.read()))), flush=True)
    return 0


if __name__ == "__main__":
    # A driver that hangs must not keep the process alive.
    os._exit(main())
