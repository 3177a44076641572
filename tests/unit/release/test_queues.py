"""The queues that the tasks and entries of a release go to, according to its note."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import (
    queue_of,
    refusals,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.release_remarks import remarks

from tests.unit.release.notes import entry, note, refused


def test_a_queue_that_no_worker_consumes_is_refused() -> None:
    (words,) = refused(note({"e": entry(goes_to="r", queue="r", fixed=True)}))
    assert words.startswith(
        "beat_schedule of release r1, in its code: entry e sends app.x to the queue r, which no worker of the "
        "inventory consumes (consumed are celery, q). Add it to a worker's queues, route the task elsewhere"
    )
    # The note can't tell which queues get what is sent to an exchange.
    assert refused(note({"e": entry(goes_to=None, fixed=True)})) == []


def test_an_external_queue_is_served_by_others_who_have_its_tasks() -> None:
    ours = {"mine": {"task": "partner.print", "interval": 5, "queue": "letters"}}
    code = {"e": entry("partner.scan", goes_to="letters", queue="letters", fixed=True)}
    assert len(refused(note(code), schedule=ours)) == 2
    assert refused(note(code), schedule=ours, external=["letters"]) == []


ROUTES = {"app.*": {"queue": "q"}}


@pytest.mark.parametrize(
    ("code", "demands", "queue"),
    [
        (entry(goes_to="own", fixed=True), {"routes": ROUTES}, "own"),
        (entry(goes_to="routed"), {}, "routed"),
        # The inventory's routes replace all of the application's.
        (entry(goes_to="routed"), {"routes": ROUTES}, "q"),
        (entry(goes_to="routed"), {"settings": {"task_routes": ROUTES}}, "q"),
        # Just the name of a queue is a route too.
        (entry(goes_to="routed"), {"settings": {"task_routes": {"app.x": "q"}}}, "q"),
        (entry(goes_to="routed"), {"settings": {"task_routes": {"app.*": "q"}}}, "q"),
        (entry("other.x", goes_to="routed"), {"routes": ROUTES}, "celery"),
        (entry("other.x"), {"routes": ROUTES, "settings": {"task_default_queue": "d"}}, "d"),
        (entry(), {"settings": {"task_default_queue": "d"}}, "d"),
        (entry(), {}, "celery"),
    ],
)
def test_the_queue_of_an_entry_in_the_code(
    code: dict[str, Any], demands: dict[str, Any], queue: str
) -> None:
    assert queue_of(code, {"default_queue": "celery"}, demands) == queue


@pytest.mark.parametrize(
    ("code", "pinned", "demands", "queue"),
    [
        # It was set at the build and no longer is; the note does not have the application's own value.
        (entry(goes_to="celery"), ["task_default_queue"], {}, None),
        (entry(), ["task_default_queue"], {"routes": {"other.*": {"queue": "q"}}}, None),
        (entry(goes_to="routed"), ["task_routes"], {}, None),
        (entry(goes_to="routed"), ["task_default_queue"], {}, "routed"),
        (entry(goes_to="own", fixed=True), ["task_routes", "task_default_queue"], {}, "own"),
        (entry(), ["task_default_queue"], {"settings": {"task_default_queue": "d"}}, "d"),
        (entry(), ["task_routes"], {"routes": ROUTES}, "q"),
    ],
)
def test_a_setting_that_the_build_knew_and_the_inventory_no_longer_has(
    code: dict[str, Any], pinned: list[str], demands: dict[str, Any], queue: str | None
) -> None:
    assert queue_of(code, {"default_queue": "celery", "pinned": pinned}, demands) == queue
    text = note({"e": code}, pinned=pinned)
    demands = {"queues": ["q", "d", "routed", "own"], **demands}
    assert refusals("r1", text, demands) == []


def test_tasks_whose_queue_no_worker_consumes_are_named() -> None:
    lost = {f"app.{name}": {"goes_to": "celery", "fixed": False} for name in "abcde"}
    text = note(goes_to={**lost, "app.x": {"goes_to": "q", "fixed": True}})
    (words,) = remarks("r1", text, {"queues": ["q"]})
    assert words == (
        "release r1: no worker of the inventory consumes the queue celery, and these tasks go there if a call names "
        "no other queue: app.a, app.b, app.c and 2 more. Add it to a worker's queues, or send the tasks elsewhere: by "
        "celery_app_task_routes or, if the code gives them this queue, in the code."
    )


@pytest.mark.parametrize(
    "demands",
    [
        {"queues": ["q", "celery"]},
        {"queues": ["q"], "external": ["celery"]},
        {"queues": ["q"], "routes": ROUTES},
        {"queues": ["q"], "settings": {"task_default_queue": "q"}},
        # The inventory does not say which queues the workers consume.
        {},
    ],
)
def test_tasks_whose_queue_is_consumed_or_not_known_are_not(demands: dict[str, Any]) -> None:
    text = note(goes_to={"app.a": {"goes_to": "celery", "fixed": False}})
    assert remarks("r1", text, demands) == []
    # A route that names an exchange only, and a task that no one sends.
    exchange = {"goes_to": None, "fixed": False}
    example = {"goes_to": "celery", "fixed": False}
    text = note(goes_to={"app.x": exchange, "app.celery.debug_task": example})
    assert remarks("r1", text, {"queues": ["q"]}) == []
    # An older note does not tell where tasks go.
    assert remarks("r1", note(), {"queues": ["q"]}) == []
