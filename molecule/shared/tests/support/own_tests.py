"""Run the tests that an example with Django brings along, on a host, in its release and on PostgreSQL.

Without hosts they run on SQLite, which skips what needs row locks or PostgreSQL's own programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from support import database, fleets
from support.inventory import Fleet

SECONDS = 300  # on a busy machine; the longer of the two takes 20 s on a quiet one


@contextmanager
def creating_databases(fleet: Fleet) -> Iterator[None]:
    """Let the application's user make databases and connect to them while the block runs.

    Django makes one for the tests. In the fleet the user may do neither, see `examples/postgresql.yml`.
    """
    variables = fleet.of("postgresql")
    user, name = variables["postgresql_user"], f"test_{variables['postgresql_database']}"
    try:
        database.execute(fleet, 'ALTER ROLE :"user" CREATEDB', user=user)
        # Django asks the database `postgres` for it.
        with database.admitted(fleet, "all"):
            yield
    finally:
        database.execute(fleet, 'ALTER ROLE :"user" NOCREATEDB', user=user)
        # Both are gone unless the tests were stopped.
        for left in (name, f"{name}_restored"):
            database.execute(fleet, 'DROP DATABASE IF EXISTS :"name" WITH (FORCE)', name=left)


def assert_all_pass(fleet: Fleet, number: int) -> None:
    """Check that all of the application's tests pass, at least so many, and that none is skipped."""
    with creating_databases(fleet):
        words = f"exec --timeout {SECONDS} -- python manage.py test --noinput"
        done = fleets.call(fleet, fleet.one("celery_producers"), words, timeout=SECONDS + 60)
    assert done.status == 0, done.text[-5000:]
    counted = re.search(r"^Ran (\d+) tests", done.errors, re.MULTILINE)
    assert counted is not None, done.text[-5000:]
    assert int(counted[1]) >= number
    # With skipped tests it would be `OK (skipped=1)`.
    assert re.search(r"^OK$", done.errors, re.MULTILINE), done.text[-5000:]
