"""Query the example's database as its superuser, on its own host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.inventory import Fleet
from support.waiting import wait_for

HBA = "/etc/postgresql/{postgresql_version}/main/pg_hba.conf"


def query(fleet: Fleet, text: str, **values: Any) -> list[dict[str, Any]]:
    """Return the rows of a SELECT; `:'name'` in its text is replaced with a value."""
    wrapped = f"SELECT coalesce(json_agg(q), '[]') FROM ({text}) AS q"  # noqa: S608  # the tests' own text
    rows: list[dict[str, Any]] = json.loads(_psql(fleet, wrapped, values))
    return rows


def execute(fleet: Fleet, text: str, **values: Any) -> None:
    """Run a statement that returns no rows."""
    _psql(fleet, text, values)


def _psql(fleet: Fleet, text: str, values: dict[str, Any]) -> str:
    name = fleet.of("postgresql")["postgresql_database"]
    command = ["runuser", "-u", "postgres", "--", "psql", "-X", "-qAt", "-v", "ON_ERROR_STOP=1"]
    command += [word for key, value in values.items() for word in ("-v", f"{key}={value}")]
    return fleet.must(fleet.one("postgresql"), [*command, "-d", name, "-f", "-"], f"{text};\n")


@contextmanager
def admitted(fleet: Fleet, name: str) -> Iterator[None]:
    """Let the application's user into another database, from its hosts, while the block runs; `all` means each one.

    `examples/postgresql.yml` only lets it into its own. A database's own rights still apply.
    """
    variables = fleet.of("postgresql")
    host, user = fleet.one("postgresql"), variables["postgresql_user"]
    path = HBA.format_map(variables)
    before = fleet.must(host, ["cat", path])
    lines = "".join(
        f"hostssl {name} {user} {network} scram-sha-256\n"
        for network in variables["postgresql_clients"]
    )
    try:
        fleet.must(host, ["tee", path], before + lines)
        execute(fleet, "SELECT pg_reload_conf()")
        yield
    finally:
        fleet.must(host, ["tee", path], before)
        execute(fleet, "SELECT pg_reload_conf()")


def runs(fleet: Fleet, prefix: str) -> list[dict[str, Any]]:
    """Return the attempts of the tracer's runs whose names start with `prefix`."""
    text = "SELECT * FROM task_runs WHERE starts_with(run_id, :'prefix') ORDER BY id"
    return query(fleet, text, prefix=prefix)


def assert_ran_once(fleet: Fleet, prefix: str, number: int, seconds: float) -> None:
    """Check that each of so many runs of the tracer started once and has ended, or ends within so many seconds."""

    def ended() -> bool:
        return sum(run["finished_at"] is not None for run in runs(fleet, prefix)) >= number

    wait_for(f"{number} runs of {prefix} end", seconds, ended)
    found = runs(fleet, prefix)
    assert len(found) == number, found
    assert [run for run in found if run["attempt"] != 1 or run["finished_at"] is None] == []


def last_tick(fleet: Fleet) -> int:
    """Return the number of the newest row that the probe wrote; 0 before the first."""
    text = "SELECT coalesce(max(id), 0) AS id FROM task_ticks WHERE source = 'probe'"
    return int(query(fleet, text)[0]["id"])
