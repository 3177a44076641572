"""What a run shows of the pending migrations of a release."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import migrations


def done(pending: list[str] | None, *one_way: str, error: str | None = None) -> dict[str, Any]:
    answer = {"ok": not error, "error": error, "pending": pending, "one_way": one_way}
    return {"rc": 1 if error else 0, "stdout": f"Welcome\n{json.dumps(answer)}\n", "stderr": ""}


def shown(result: dict[str, Any], *, required: bool = True) -> list[str]:
    return migrations.lines("worker1", "r2", result, ["quite-secret"], required=required)


def test_pending_migrations_are_listed_in_order() -> None:
    assert shown(done(["shop.0002_price", "blog.0001_initial"])) == [
        "worker1: 2 migrations are pending for release r2:",
        "  shop.0002_price",
        "  blog.0001_initial",
    ]


def test_the_absence_of_migrations_is_said_only_for_django() -> None:
    assert shown(done([])) == ["worker1: no migrations are pending for release r2"]
    assert shown(done(None)) == []


def test_a_long_list_is_cut_but_not_its_one_way_migrations() -> None:
    told = shown(done([f"shop.{number:04}" for number in range(1, 31)], "shop.0030"))
    assert told[migrations.SHOWN :] == [
        "  shop.0020",
        "  and 10 more",
        "  According to one-way-migrations.txt, these can't be undone: shop.0030",
    ]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (done(None, error="OperationalError: quite-secret"), "listed: OperationalError: ***."),
        ({"rc": 124, "stdout": "", "stderr": "took more than 120 s"}, "took more than 120 s."),
    ],
)
def test_a_failure_is_an_error_only_of_a_deploy(result: dict[str, Any], words: str) -> None:
    with pytest.raises(migrations.MigrationsError) as told:
        shown(result)
    assert words in str(told.value)
    assert "run the same playbook again" in str(told.value)
    (line,) = shown(result, required=False)
    assert words in line


def test_they_are_listed_by_the_new_release() -> None:
    words = shlex.split(migrations.command("shop", "/opt/shop", "/usr/lib/fleet", "r2", 120))
    assert words[words.index("--release") + 1] == "r2"
    assert words[-1] == "/opt/shop/releases/r2"
