"""Flower asks for a password on every path, and with it shows all workers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from support import database, resp, tasks, web
from support.inventory import ROOT
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.inventory import Fleet

pytestmark = pytest.mark.unit("{celery_app_name}-flower.service", "flower")

PATHS = [
    *("/", "/workers", "/worker/{node}", "/dashboard", "/tasks", "/tasks/datatable", "/broker"),
    *("/monitor", "/metrics", "/healthcheck", "/login", "/logout", "/favicon.ico", "/no-such-path"),
    *(
        "/static/css/flower.css",
        "/static/js/flower.js",
    ),
    *(
        "/api/workers",
        "/api/workers?refresh=1",
        "/api/tasks",
        "/api/task/types",
        "/api/queues/length",
    ),
    *("//metrics", "//api//workers", "/%6Detrics", "/./healthcheck", "/healthcheck/", "/METRICS"),
    *("https://elsewhere/metrics", "/api%2Fworkers"),
]
# nginx passes a path on unchanged, so it refuses those with a way up.
UP = ["/static/../metrics", "/static/%2e%2e/metrics", "/static/..%2fmetrics", "/..;/metrics/.."]
ACTIONS = [
    *("/api/worker/shutdown/{node}", "/api/worker/pool/restart/{node}"),
    *("/api/worker/pool/grow/{node}", "/api/worker/queue/cancel-consumer/{node}?queue=discounts"),
    *("/api/task/async-apply/app.tasks.record_tick", "/api/task/revoke/x?terminate=1"),
]


def nodes(fleet: Fleet) -> dict[str, str]:
    """Return the host of every worker of the inventory by its node name."""
    return {
        f"{worker}@{name}": name
        for name in fleet.hosts("celery_workers")
        for worker in fleet.expected[name]["celery_worker_host_instances"]
    }


def known(said: Mapping[str, Any]) -> set[str]:
    """Return the tasks that a worker knows; a name may be followed by options."""
    return {text.split(" ")[0] for text in said["registered"]}


def options(fleet: Fleet, node: str) -> Mapping[str, Any]:
    """Return the worker's options in the inventory."""
    worker, _, name = node.partition("@")
    variables = fleet.expected[name]
    own = variables["celery_worker_instances"][worker] or {}
    return {"queues": [worker], **variables["celery_worker_defaults"], **own}


@pytest.fixture(scope="module")
def workers(fleet: Fleet) -> Mapping[str, Any]:
    """Return what Flower knows about all workers, after it has asked them."""

    def look() -> Any:
        answer = web.flower(fleet, "/api/workers?refresh=1")
        assert answer.status == 200, answer.body
        # Workers that no longer run stay in its list for a while.
        found = {node: said for node, said in answer.json.items() if node in nodes(fleet)}
        return found if all(said.get("registered") for said in found.values()) else None

    found: Mapping[str, Any] = wait_for("all workers answer Flower", 20, look)
    return found


@pytest.mark.parametrize("path", PATHS)
def test_asks_for_a_password(fleet: Fleet, path: str) -> None:
    answer = web.flower(fleet, path.format(node=next(iter(nodes(fleet)))), login=False)
    assert answer.status == 401
    assert answer.challenge.startswith("Basic ")


@pytest.mark.parametrize("path", UP)
def test_refuses_a_way_up(fleet: Fleet, path: str) -> None:
    assert web.flower(fleet, path, login=False).status == 400


@pytest.mark.parametrize("path", ACTIONS)
def test_does_nothing_without_a_password(fleet: Fleet, path: str) -> None:
    path = path.format(node=next(iter(nodes(fleet))))
    assert web.flower(fleet, path, "POST", login=False).status == 401


def test_revokes_a_task_with_the_password(fleet: Fleet) -> None:
    """A task that a worker holds until it is due is dropped, and the other one runs."""
    label = f"flower-{uuid4().hex[:8]}"
    queue = options(fleet, next(iter(nodes(fleet))))["queues"][0]
    both = [replace(tasks.tracer(f"{label}-{name}", queue, 0), delay=15) for name in ("a", "b")]
    revoked, _ = tasks.send(fleet, both)
    assert web.flower(fleet, f"/api/task/revoke/{revoked}", "POST").status == 200
    wait_for("the other one runs", 40, lambda: database.runs(fleet, f"{label}-b"))
    assert database.runs(fleet, f"{label}-a") == []


def test_refuses_a_wrong_password(fleet: Fleet) -> None:
    variables = fleet.expected[fleet.one("flower")]
    user, right = variables["flower_auth_user"], variables["flower_auth_password"]
    for login in ((user, "wrong"), (user, ""), ("wrong", right), ("", "")):
        assert web.flower(fleet, "/", login=login).status == 401


@pytest.mark.parametrize("path", ["/workers", "/broker", "/metrics", "/healthcheck"])
def test_lets_in_with_the_password(fleet: Fleet, path: str) -> None:
    assert web.flower(fleet, path).status == 200


def test_shows_all_workers(fleet: Fleet, workers: Mapping[str, Any]) -> None:
    assert set(workers) == set(nodes(fleet))
    page = web.flower(fleet, "/workers").body
    assert [node for node in nodes(fleet) if node not in page] == []


def test_workers_consume_their_queues(fleet: Fleet, workers: Mapping[str, Any]) -> None:
    found = {
        # In addition to its queues each worker consumes its own direct queue.
        node: {queue["name"] for queue in said["active_queues"]} - {f"{node}.dq2"}
        for node, said in workers.items()
    }
    assert found == {node: set(options(fleet, node)["queues"]) for node in nodes(fleet)}


def test_scheduled_tasks_are_known_to_a_worker_of_their_queue(
    fleet: Fleet, workers: Mapping[str, Any]
) -> None:
    lost = {}
    for name, entry in fleet.of("celery_beat")["celery_beat_schedule"].items():
        takers = {
            node: known(said)
            for node, said in workers.items()
            if entry["queue"] in {queue["name"] for queue in said["active_queues"]}
        }
        if not takers or not all(entry["task"] in tasks for tasks in takers.values()):
            lost[name] = takers
    assert lost == {}


def test_all_tasks_are_known_to_all_workers(fleet: Fleet, workers: Mapping[str, Any]) -> None:
    source = ROOT / fleet.of("fleet")["celery_app_source"]["path"]
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    own = set(re.findall(r'@celery_app\.task\(\s*name="([^"]+)"', text))
    assert len(own) >= 3
    expected = {*own, "celery_fleet.canary"}
    found = {node: known(said) for node, said in workers.items()}
    assert found == dict.fromkeys(nodes(fleet), expected)


def test_workers_have_the_documented_limits(fleet: Fleet, workers: Mapping[str, Any]) -> None:
    """Compare with FlexiPrice's document: limits in seconds, prefetch per process, tasks per child."""
    found = {
        node: (
            said["stats"]["pool"]["timeouts"],
            said["stats"]["pool"]["max-tasks-per-child"],
            said["stats"]["pool"]["max-concurrency"],
            said["stats"]["prefetch_count"],
        )
        for node, said in workers.items()
    }
    concurrency = {"discounts": 4, "maintenance": 1, "analytics": 1}
    expected = {}
    for node in nodes(fleet):
        slots = concurrency[node.partition("@")[0]]
        expected[node] = ([1500, 1800], 1000, slots, 4 * slots)
    assert found == expected


@pytest.mark.stage(1)
def test_flower_is_refused_nothing_before_it_knows_a_worker(fleet: Fleet) -> None:
    """Its page of queues is requested right after a start."""
    unit = f"{fleet.of('flower')['celery_app_name']}-flower.service"
    fleet.must(fleet.one("flower"), ["systemctl", "restart", unit])
    answer = wait_for(
        "Flower answers",
        20,
        lambda: [a for a in [web.flower(fleet, "/broker")] if a.status != 502],
        pause=0.1,
    )[0]
    assert answer.status == 200
    assert resp.acl_log(fleet, "broker") == []
