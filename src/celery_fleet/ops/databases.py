"""Check that the application's databases answer: ``python -m celery_fleet.ops.databases`` in the release's Python.

It reads one JSON object from standard input, so that no password is in a command line::

    {"app": "shop.celery", "release": "/opt/shop/releases/1", "environment": {"DATABASE_URL": "postgresql://…"},
     "urls": {"DATABASE_URL": "postgresql://…"}, "timeout": 8}

and prints one::

    {"default": {"ok": true, "seconds": 0.02, "how": "Django's connection"}}

If the application is a Django project, its own connections are used, so the driver, the settings and the login are
the application's. Otherwise the only check is whether the port of each URL accepts connections.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from celery_fleet.common.answering import serve
from celery_fleet.common.redact import redact, secrets_in
from celery_fleet.health import database
from celery_fleet.system import launch

#: Django's engines without a server.
_NO_SERVER = re.compile("dummy|sqlite|spatialite")

#: Looks at one database and returns how it did; raises anything if the database does not answer.
Look = Callable[[], str]


@dataclass(frozen=True)
class DatabasesRequest:
    """What to check; see the module's docstring."""

    app: str
    release: str
    environment: Mapping[str, str]
    urls: Mapping[str, str]
    timeout: float


def enter(release: str, environment: Mapping[str, str]) -> None:
    """Give this process the directory and the environment of the application's own processes."""
    directory = launch.working_directory(release)
    os.environ.update(
        launch.environment({**os.environ, **environment}, "operator", release, directory)
    )
    # The fleet's loader needs credentials, which this process does not have.
    os.environ.pop("CELERY_LOADER", None)
    os.chdir(directory)
    sys.path.insert(0, directory)


def django_connections(app: str) -> Any:
    """Return Django's connections; None if the application is no Django project or can't be imported."""
    # Importing an application costs a second of processor time or more, and this runs by a timer.
    if find_spec("django") is None:
        return None
    try:
        from celery.app.utils import find_app

        # The Celery module of a Django project names the settings. Tasks and models are not needed.
        find_app(app)
        if not os.environ.get("DJANGO_SETTINGS_MODULE"):
            return None
        from django.db import connections

        list(connections)
    except (Exception, SystemExit):  # noqa: BLE001  # if the application fails, its ports can still be checked
        return None
    return connections


def looks(app: str, urls: Mapping[str, str]) -> dict[str, tuple[Look, list[str]]]:
    """Return how to look at each database, with the secrets that no message may repeat."""
    connections = django_connections(app)
    found: dict[str, tuple[Look, list[str]]] = {
        alias: (partial(by_django, connections, alias), [*secrets_in(settings)])
        for alias, settings in (connections.databases if connections else {}).items()
        if not _NO_SERVER.search(str(settings["ENGINE"]))
    }
    return found or {
        name: (partial(by_port, url), database.secrets_of(url)) for name, url in urls.items()
    }


def by_django(connections: Any, alias: str) -> str:
    """Log in and run a query, as the application does."""
    connection = connections[alias]
    try:
        connection.ensure_connection()
        if not connection.is_usable():
            raise OSError("it accepts the login, but answers no query")
    finally:
        connection.close()
    return "Django's connection"


def by_port(url: str) -> str:
    """Connect, without a login."""
    if database.scheme_of(url) in database.FILES:
        return "a file, which is not checked"
    database.connect(url)
    return "its port accepts connections"


def answer(look: Look, secrets: list[str]) -> dict[str, Any]:
    """Return the result for one database. It never raises, and never repeats a password."""
    began = time.monotonic()
    try:
        how = look()
    except Exception as error:  # noqa: BLE001  # the driver's error is the answer
        words = " ".join(str(error).split()) or type(error).__name__
        return {"ok": False, "error": redact(words, secrets)}
    return {"ok": True, "seconds": round(time.monotonic() - began, 3), "how": how}


def run(wanted: Mapping[str, tuple[Look, list[str]]], timeout: float) -> dict[str, dict[str, Any]]:
    """Look at all databases at once and return what is known by the deadline."""
    found: dict[str, dict[str, Any]] = {}

    def put(name: str) -> None:
        found[name] = answer(*wanted[name])

    threads = [threading.Thread(target=put, args=(name,), daemon=True) for name in wanted]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = {"ok": False, "error": f"no answer within {timeout:g} s"}
    return {name: dict(found.get(name, late)) for name in wanted}


def report(request: DatabasesRequest) -> dict[str, dict[str, Any]]:
    """Return the results for all databases of the application."""
    enter(request.release, request.environment)
    return run(looks(request.app, request.urls), request.timeout)


if __name__ == "__main__":
    serve(lambda raw: DatabasesRequest(**raw), report)
