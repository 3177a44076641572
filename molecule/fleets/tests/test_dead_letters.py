"""What operators do with dead letters: replay a failed task when its cause is gone, and drop what can't be run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support import database, fleets
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.fleets import Answer
    from support.inventory import Fleet

# These tests come after the one that waits for its own dead letter.
pytestmark = pytest.mark.stage(2)

TASK = "promotions.tasks.cleanup_expired_promos"
# Sends a message as a program without Celery may: its headers name no task.
FOREIGN = """
import os
from celery.app.utils import find_app
app = find_app(os.environ["CELERY_APP"])
with app.producer_pool.acquire(block=True) as producer:
    producer.publish({"hello": "world"}, exchange="", routing_key="celery", serializer="json")
"""


def ask(fleet: Fleet, words: str) -> Any:
    """Return what `celery-fleet dead-letters` answers, as data."""
    host = fleet.one("celery_workers")
    return json.loads(fleets.must(fleet, host, f"--format json dead-letters {words}").output)


def say(fleet: Fleet, words: str) -> Answer:
    """Run `celery-fleet dead-letters`, however it ends."""
    return fleets.call(fleet, fleet.one("celery_workers"), f"dead-letters {words}")


def ids(fleet: Fleet) -> set[str]:
    return {letter["id"] for letter in ask(fleet, "list")}


@pytest.fixture(autouse=True)
def as_before(flash: Fleet) -> Iterator[None]:
    """Drop what a test leaves: beat's own tasks also fail while their database is away."""
    before = ids(flash)
    yield
    if new := ids(flash) - before:
        ask(flash, f"drop --yes {' '.join(sorted(new))}")
    assert ids(flash) == before


def warned_of_dead_letters(fleet: Fleet) -> bool:
    """Check the health of the host that counts dead letters; return whether the latest alert is about them.

    The inventory's command writes each change of the state to the journal.
    """
    host = fleet.hosts("redis")[0]
    fleet.must(host, ["systemctl", "start", "flash_promos-health.service"])
    journal = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--identifier"]
    alerts = fleet.must(host, [*journal, "flash_promos-alert"]).splitlines()
    return bool(alerts) and json.loads(alerts[-1])["checks"]["dead_letters"]["state"] == "warning"


@contextmanager
def without_database(fleet: Fleet) -> Iterator[None]:
    """Keep all processes of the application out of its database."""
    name = fleet.of("postgresql")["postgresql_database"]
    database.execute(fleet, f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    try:
        database.execute(
            fleet,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        yield
    finally:
        database.execute(fleet, f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')


def test_failed_task_is_replayed_when_its_cause_is_gone(flash: Fleet) -> None:
    with without_database(flash):
        identity = fleets.send(flash, fleets.task(TASK))[0].id
        wait_for(
            "it has failed", 30, lambda: fleets.state_of(flash, identity) == "FAILURE", pause=1
        )
    (letter,) = ask(flash, f"list --reason failed --task 'promotions.*' {identity}")
    assert (letter["task"], letter["queue"], letter["count"]) == (TASK, "celery", 1)
    assert letter["node"] in fleets.nodes(flash)
    wait_for("the alert is sent", 60, lambda: warned_of_dead_letters(flash), pause=2)

    shown = say(flash, f"show {identity}")
    assert (shown.status, TASK in shown.output, "failed: " in shown.output) == (0, True, True)
    assert "payload" not in ask(flash, f"show {identity}")[0]
    assert "payload" in ask(flash, f"show {identity} --payload")[0]

    # There is no terminal to ask at.
    refused = say(flash, f"replay {identity}")
    assert (refused.status, "--yes" in refused.errors) == (2, True)
    assert identity in ids(flash)

    assert ask(flash, f"replay --yes --reason unknown {identity}")["done"] == 0
    assert ask(flash, f"replay --yes --reason failed --task '{TASK}' {identity}")["done"] == 1
    wait_for("it runs well", 30, lambda: fleets.state_of(flash, identity) == "SUCCESS", pause=1)
    assert identity not in ids(flash)
    assert say(flash, f"show {identity}").status == 1


def test_a_message_without_a_task_is_kept_and_can_be_dropped(flash: Fleet) -> None:
    before, pids = ids(flash), fleets.pids(flash)
    fleets.python(flash, FOREIGN)
    new = wait_for("it is kept", 30, lambda: ids(flash) - before, pause=1)
    assert len(new) == 1
    (identity,) = new
    (letter,) = ask(flash, f"list --reason malformed --queue celery --newer-than 5m {identity}")
    assert letter["task"] is None
    assert ask(flash, f"list --older-than 1h {identity}") == []
    # The message ends no worker.
    assert fleets.pids(flash) == pids

    # The replayed message is still malformed, and counts as a new dead letter.
    assert ask(flash, f"replay --yes {identity}")["done"] == 1
    (again,) = wait_for("it is kept again", 30, lambda: ids(flash) - before, pause=1)

    assert say(flash, f"drop {again}").status == 2
    assert ask(flash, f"drop --yes --reason malformed {again}")["done"] == 1
    assert ids(flash) == before
    assert ask(flash, f"drop --yes {again}")["done"] == 0
