"""The application's API: tasks that it starts run on their queue and change rows; its admin asks for a password."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from support import database, web
from support.tasks import wait_until_none_is_due
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

TRIGGER = "/api/v1/admin/discounts/trigger-recompute"
STATUS = "/api/v1/admin/discounts/task-status"

pytestmark = pytest.mark.unit("{celery_app_name}-web.service", "celery_producers")

# Spellings that mean the same place to nginx, so the password must be asked for.
SAME = [
    "/api/v1/admin/",
    TRIGGER,
    f"{TRIGGER}/",
    f"{TRIGGER}?async_task=false",
    f"{STATUS}/00000000-0000-0000-0000-000000000000",
    "/api/v1/admin/no/such/path",
    f"/{TRIGGER}",
    "/api//v1//admin//discounts//trigger-recompute",
    "/api/v1/./admin/discounts/trigger-recompute",
    "/api/v1/%61dmin/discounts/trigger-recompute",
    "/%61%70%69/v1/admin/discounts/trigger-recompute",
    "/api/v1/admin%2Fdiscounts/trigger-recompute",
    "/api%2Fv1%2Fadmin%2Fdiscounts%2Ftrigger-recompute",
    f"https://elsewhere{TRIGGER}",
]
# Spellings with a way up: nginx refuses these at once, since it passes a path on unchanged.
UP = [
    "/api/v1/x/../admin/discounts/trigger-recompute",
    "/api/v1/x/%2e%2e/admin/discounts/trigger-recompute",
    "/api/v1/x%2f..%2fadmin/discounts/trigger-recompute",
    "/static/..%2f..%2fapi/v1/admin/discounts/trigger-recompute",
    "/api/v1/admin/../products",
    # For nginx the path ends here, but it passes all of it on.
    f"{TRIGGER}#part",
    "/api/v1/admin/..#/trigger-recompute",
]
# Spellings that only look similar: whatever answers them, it is not the admin's code.
OTHER = [
    "/api/v1/admin",
    "/api/v1/ADMIN/discounts/trigger-recompute",
    "/API/v1/admin/discounts/trigger-recompute",
    "/api/v1/admin;x/discounts/trigger-recompute",
    "/api/v1/admin%252Fdiscounts/trigger-recompute",
    "/api/v1%5Cadmin%5Cdiscounts%5Ctrigger-recompute",
    "/api/v1/x/../admin%00/discounts/trigger-recompute",
    "/?x=/api/v1/admin/discounts/trigger-recompute",
]


def discounts(fleet: Fleet) -> int:
    """Return how many discounts there are."""
    rows = database.query(fleet, "SELECT count(*) AS number FROM discounts")
    return int(rows[0]["number"])


@pytest.fixture
def undisturbed(fleet: Fleet) -> None:
    """At the full hour beat's task makes discounts, too."""
    wait_until_none_is_due(fleet, "app.tasks.recompute_")


def due(fleet: Fleet) -> int:
    """Return how many batches the rule of the next 30 days affects, computed from the samples."""
    text = """
        SELECT count(*) AS number FROM batches
         WHERE quantity > 0 AND expires_on BETWEEN current_date AND current_date + 30
    """
    return int(database.query(fleet, text)[0]["number"])


def outcome(fleet: Fleet, task: str) -> Any:
    """Return the outcome of a task, once it has one."""

    def look() -> Any:
        answer = web.api(fleet, f"{STATUS}/{task}")
        assert answer.status == 200, answer.body
        return answer.json if answer.json["state"] in ("SUCCESS", "FAILURE") else None

    return wait_for(f"task {task} ends", 20, look, pause=0.3)


def test_answers(fleet: Fleet) -> None:
    assert web.api(fleet, "/health", login=False).json == {"status": "ok"}
    assert len(web.api(fleet, "/api/v1/products", login=False).json) > 0


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.unit("{celery_app_name}-worker@discounts.service", "celery_workers")
def test_triggers_a_task_that_its_queues_worker_runs(fleet: Fleet) -> None:
    database.execute(fleet, "DELETE FROM discounts")
    answer = web.api(fleet, f"{TRIGGER}?days_threshold=30&async_task=true", "POST")
    assert answer.status == 202, answer.body
    task = answer.json["task_id"]
    done = outcome(fleet, task)
    expected = due(fleet)
    assert expected > 0
    assert (done["state"], done["result"]["created"]) == ("SUCCESS", expected)
    assert discounts(fleet) == expected
    assert len(web.api(fleet, "/api/v1/discounts", login=False).json) == expected

    # The workers themselves report in events which of them ran it.
    seen = wait_for(
        "Flower hears of the task",
        10,
        lambda: [a for a in [web.flower(fleet, f"/api/task/info/{task}")] if a.status == 200],
    )
    worker, _, name = seen[0].json["worker"].partition("@")
    queue = fleet.of("fleet")["celery_app_task_routes"]["app.tasks.recompute_*"]["queue"]
    assert (worker, name in fleet.hosts("celery_workers")) == (queue, True)


@pytest.mark.usefixtures("undisturbed")
def test_computes_within_a_request_too(fleet: Fleet) -> None:
    database.execute(fleet, "DELETE FROM discounts")
    answer = web.api(fleet, f"{TRIGGER}?days_threshold=30&async_task=false", "POST")
    assert (answer.status, answer.json["created"]) == (200, due(fleet))
    assert discounts(fleet) == due(fleet)


def test_says_what_is_wrong_with_a_request(fleet: Fleet) -> None:
    assert web.api(fleet, f"{TRIGGER}?days_threshold=0", "POST").status == 422
    assert web.api(fleet, f"{STATUS}/no-task").status == 422


@pytest.mark.parametrize("path", SAME)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_admin_asks_for_a_password(fleet: Fleet, path: str, method: str) -> None:
    answer = web.api(fleet, path, method, login=False)
    assert answer.status == 401
    assert answer.challenge.startswith("Basic ")


@pytest.mark.parametrize("path", UP)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_admin_is_not_reached_by_a_way_up(fleet: Fleet, path: str, method: str) -> None:
    assert web.api(fleet, path, method, login=False).status == 400


@pytest.mark.parametrize("path", OTHER)
def test_admin_is_not_reached_by_another_spelling(fleet: Fleet, path: str) -> None:
    for method in ("GET", "POST"):
        assert web.api(fleet, path, method, login=False).status in (301, 400, 401, 404, 405)


def test_admin_refuses_a_wrong_password(fleet: Fleet) -> None:
    name = fleet.one("celery_producers")
    variables = fleet.expected[name]
    port = variables["celery_producer_web_port"]
    user = variables["celery_producer_web_auth_user"]
    right = variables["celery_producer_web_auth_password"]
    for login in ((user, "wrong"), (user, ""), ("wrong", right), ("", "")):
        answer = web.request(variables, name, port, TRIGGER, "POST", login)
        assert answer.status == 401


@pytest.mark.usefixtures("undisturbed")
def test_nothing_was_sent_by_those_who_were_refused(fleet: Fleet) -> None:
    """Runs after the tests above: a request that was let through would write rows within moments."""
    database.execute(fleet, "DELETE FROM discounts")
    for path in (*SAME, *UP, *OTHER):
        web.api(fleet, path, "POST", login=False)
    time.sleep(1)
    assert discounts(fleet) == 0
