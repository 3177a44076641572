"""The workers of a rolling restart, from the inventory, the plan and the workers that answer."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart import census
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import FleetWorker

INSTANCES = {
    "a": {"queues": ["q"], "concurrency": 4},
    "b": {"pool": "solo", "concurrency": 3},
    "c": {"autoscale": {"min": 3, "max": 10, "wait": "30s"}, "overlap": False},
    "d": None,
}
HOSTVARS = {
    "h1": {"celery_app_name": "shop", "celery_worker_host_instances": ["a", "b", "c", "d"]},
    "h2": {"celery_app_name": "shop", "celery_worker_host_instances": ["a"]},
}


def item(host: str, name: str, action: str, *why: str) -> dict[str, Any]:
    subject = f"shop-worker@{name}.service"
    return {"host": host, "part": "celery_worker", "subject": subject, "action": action, "why": why}


def found(**changes: Any) -> dict[str, FleetWorker]:
    findings: dict[str, Any] = {
        "present": ["h1", "h2"],
        "items": [],
        "census": {},
        "active": {},
        "left": {},
    }
    findings |= {key: changes.pop(key) for key in findings if key in changes}
    given = {"hostvars": HOSTVARS, "inventory": ["h1", "h2"], "instances": INSTANCES, **changes}
    workers = census.workers("shop", findings=census.Findings(**findings), **given)
    return {worker.node: worker for worker in workers}


def test_the_number_of_processes_comes_from_the_worker_or_the_inventory() -> None:
    seen = {"d@h1": {"queues": ["d"], "processes": 16}, "a@h1": {"queues": ["q"], "processes": 9}}
    processes = {node: one.processes for node, one in found(census=seen).items()}
    assert processes == {"a@h1": 4, "b@h1": 1, "c@h1": 10, "d@h1": 16, "a@h2": 4}
    assert found()["d@h1"].processes == 1


def test_options_of_the_inventory_are_used() -> None:
    all_of_them = found()
    assert (all_of_them["b@h1"].pool, all_of_them["a@h1"].pool) == ("solo", "prefork")
    assert (all_of_them["c@h1"].overlap, all_of_them["a@h1"].overlap) == (False, None)
    assert all_of_them["a@h1"].unit == "shop-worker@a.service"
    assert all_of_them["d@h1"].queues == ("d",)


@pytest.mark.parametrize(
    ("seen", "active", "present", "expected"),
    [
        ({"a@h2": {"queues": ["q", "x"]}}, {}, ["h1", "h2"], "serving"),
        ({"a@h2": {"queues": []}}, {}, ["h1", "h2"], "inactive"),
        ({}, {"h2": ["shop-worker@a.service"]}, ["h1", "h2"], "serving"),
        ({}, {}, ["h1", "h2"], "inactive"),
        ({}, {}, ["h1"], "missing"),
        ({"a@h2": {"queues": ["q"]}}, {}, ["h1"], "serving"),
    ],
)
def test_the_presence_of_a_worker(
    seen: Any, active: Any, present: list[str], expected: str
) -> None:
    assert found(census=seen, active=active, present=present)["a@h2"].presence == expected


def test_needs_come_from_the_plan() -> None:
    items = [
        item("h1", "a", "restart", "environment X changed"),
        item("h1", "b", "start"),
        {**item("h1", "c", "write"), "subject": "/etc/some/file"},
        item("h1", "c", "reload"),
    ]
    needs = {node: one.need for node, one in found(items=items).items()}
    assert needs == {"a@h1": "restart", "b@h1": "start", "c@h1": "", "d@h1": "", "a@h2": ""}


def test_removed_workers_and_leftovers_of_a_killed_run_are_found() -> None:
    items = [item("h2", "old", "remove", "gone"), item("h2", "a.next", "remove")]
    seen = {"a.next@h2": {"queues": ["q"], "processes": 4}}
    all_of_them = found(items=items, census=seen)
    old, left = all_of_them["old@h2"], all_of_them["a.next@h2"]
    assert (old.need, old.presence, old.queues) == ("remove", "inactive", ())
    assert (left.need, left.presence, left.queues) == ("remove", "serving", ("q",))
    assert left.unit == "shop-worker@a.next.service"


def test_a_second_instance_is_removed_even_without_a_plan() -> None:
    seen = {"a.next@h2": {"queues": ["q"]}, "a.next@h1": {"queues": ["q"]}}
    left = found(census=seen, present=["h2"])
    assert {node: one.need for node, one in left.items() if one.need} == {"a.next@h2": "remove"}


def test_a_second_instance_that_does_not_answer_is_found_by_its_files() -> None:
    left = found(left={"h1": ["a.next"], "h2": [], "h3": ["a.next"]})
    assert {node: one.need for node, one in left.items() if one.need} == {"a.next@h1": "remove"}
    assert left["a.next@h1"].presence == "inactive"
    assert left["a.next@h1"].unit == "shop-worker@a.next.service"


def test_force_only_affects_hosts_of_this_run() -> None:
    forced = found(force=True, present=["h2"], items=[item("h2", "a", "start")])
    assert {node: one.need for node, one in forced.items() if one.need} == {"a@h2": "start"}
    forced = found(force=True, present=["h2"])
    assert {node: one.need for node, one in forced.items() if one.need} == {"a@h2": "restart"}


def test_only_the_selected_workers_restart() -> None:
    items = [item("h1", "a", "restart"), item("h1", "b", "restart"), item("h1", "c", "start")]
    needs = {node: one.need for node, one in found(items=items, only=["b"]).items() if one.need}
    assert needs == {"b@h1": "restart", "c@h1": "start"}
    forced = found(force=True, only=["a"])
    assert {node for node, one in forced.items() if one.need} == {"a@h1", "a@h2"}


def test_workers_of_another_application_are_ignored() -> None:
    other = {**item("h1", "a", "restart"), "subject": "shopping-worker@a.service"}
    assert not any(one.need for one in found(items=[other]).values())


def test_tasks_that_a_consumer_must_register() -> None:
    schedule = {
        "one": {"task": "app.one", "queue": "q"},
        "two": {"task": "app.two"},
        "off": {"task": "app.off", "queue": "q", "enabled": False},
    }
    routes = {"app.two": {"queue": "q"}, "app.*": {"queue": "q"}, "app.three": {"queue": "r"}}
    assert census.needed_tasks(["q"], schedule, routes) == ["app.one", "app.two"]
    assert census.needed_tasks(["r"], schedule, routes) == ["app.three"]
