"""A mistake is refused with what is wrong, where, and what to do next, while the running release continues.

There is one case for each moment at which a run can end: preflight, build, check, plan and release command. Their other
refusals are tested without hosts (tests/unit/preflight, runtime/test_check.py, roles/test_fleet_command.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from support import fleets, web
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fleets import Workshop
    from support.inventory import Fleet
    from support.plays import Run

pytestmark = pytest.mark.stage(6)

NO_DATABASE = "nowhere"


@dataclass(frozen=True)
class Case:
    """One mistake in the inventory or the code of an application.

    Attributes:
        variables: Values that replace the inventory's.
        says: Words of the message: what, where, and what to do next.
        replaced: What is changed in the code, if anything.
        shows_traceback: Whether the application's own code, or a command's output, may show one.
    """

    variables: Callable[[Fleet], dict[str, Any]]
    says: tuple[str, ...]
    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    shows_traceback: bool = False


def command(*argv: str) -> Callable[[Fleet], dict[str, Any]]:
    """Return variables with one more command, after the inventory's own."""

    def variables(fleet: Fleet) -> dict[str, Any]:
        own = fleet.of("fleet")["celery_release_commands"]
        name = f"wrong-{len(''.join(argv))}"
        more = {
            "name": name,
            "argv": list(argv),
            "when": "release",
            "hosts": "one",
            "timeout": 60,
        }
        return {"celery_release_commands": [*own, more]}

    return variables


def same(_: Fleet) -> dict[str, Any]:
    """Return no changes, for the inventory as it is."""
    return {}


CASES = {
    # In the first two cases, the new release has been built and checked.
    "command fails": Case(
        command("python", "-c", "print('cause of it'); raise SystemExit(3)"),
        ("exit status 3", "cause of it", "/var/log/celery-fleet/", "run the same playbook again"),
        {"aiecommerce__catalog__pipeline": ("LEAST_MARGIN = 10", "LEAST_MARGIN = 11")},
    ),
    "database is not there": Case(
        lambda _: {"postgresql_database": NO_DATABASE},
        ("migrate", NO_DATABASE, "/var/log/celery-fleet/", "run the same playbook again"),
        {"aiecommerce__catalog__pipeline": ("LEAST_MARGIN = 10", "LEAST_MARGIN = 12")},
        shows_traceback=True,
    ),
    "zone of the inventory does not exist": Case(
        lambda _: {"celery_app_settings": {"timezone": "America/Guayaquill"}},
        ("celery_app_settings.timezone", "America/Guayaquill", "America/Guayaquil"),
    ),
    "application can't be imported": Case(
        same,
        ("SyntaxError", "aiecommerce/catalog/tasks.py", "line "),
        {"aiecommerce__catalog__tasks": ("RETRY: dict[str, Any] = {", "def broken(:\nRETRY = {")},
        shows_traceback=True,
    ),
    "schedules contradict each other": Case(
        lambda _: {
            "celery_beat_schedule": {
                "run-prune-scrapes": {"task": "run_prune_scrapes", "crontab": {"minute": 0, "hour": 3}}
            }
        },
        ("celery_beat_schedule.run-prune-scrapes", "another time", "celery_beat_schedule_policy"),
    ),
    "inventory has a schedule where the code's is the whole": Case(
        lambda _: {
            "celery_beat_schedule_policy": "refuse",
            "celery_beat_schedule": {"mine": {"task": "run_prune_scrapes", "interval": 60}},
        },
        ("celery_beat_schedule", "mine", "celery_beat_schedule_policy"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def settled(shop: Fleet, workshop: Workshop) -> Iterator[None]:
    """After each refusal, one run restores the inventory's own state, and then there is nothing to do."""
    yield
    workshop.settle(shop, "settled")
    again = workshop.site(shop, "settled-again")
    assert again.status == 0, again.end
    assert again.changed == dict.fromkeys(shop.hosts(), 0)


def refuse(shop: Fleet, workshop: Workshop, title: str) -> Run:
    case = CASES[title]
    variables = case.variables(shop)
    if case.replaced:
        variables["celery_app_source"] = workshop.source(shop, **case.replaced)
    name = title.replace(" ", "-").replace("'", "")
    return workshop.site(shop, f"bad-{name}", workshop.variables(**variables))


@pytest.mark.parametrize("title", CASES)
def test_a_refusal_leaves_the_running_release_working(
    shop: Fleet, flexi: Fleet, flash: Fleet, workshop: Workshop, title: str
) -> None:
    others = fleets.Look.at(flexi, flash)
    processes, serving = fleets.pids(shop), fleets.serving(shop)
    case, run = CASES[title], refuse(shop, workshop, title)
    assert run.status != 0, "it was not refused"
    # The text before that may be from the inventory, which -vvv shows.
    message = " ".join(run.text[max(run.text.find("[ERROR]"), 0) :].split())
    assert [word for word in case.says if word not in message] == [], run.end
    assert case.shows_traceback or "Traceback (most recent call last)" not in run.text, run.end
    assert fleets.pids(shop) == processes
    assert fleets.serving(shop) == serving
    others.unchanged()
    # The web process, a worker and the database, as before.
    products = web.api(shop, "/api/v1/products", login=False)
    assert (products.status, len(products.json["products"]) > 0) == (200, True)
    identity = products.json["products"][0]["id"]
    answer = web.api(shop, f"/api/v1/admin/products/{identity}/price", "POST", content={"price": 7})
    assert answer.status == 202, answer.body
    done = wait_for(
        "a worker has done it",
        20,
        lambda: (
            (found := web.api(shop, answer.json["status_url"]).json)["state"] == "SUCCESS" and found
        ),
    )
    assert done["result"] == "7.00"
