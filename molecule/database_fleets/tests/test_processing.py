"""The release replaces the container's scripts, and requests pass through the documented stages."""

from __future__ import annotations

import base64
import json
import re
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import documented
import means
import pytest
from support import database, fleets, units, web
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.inventory import Fleet

ROUNDS = 3
LOAD = "exec -- python manage.py load_fixtures_once"
# Typed from the fixtures: what is loaded everywhere, and what dev_requests.json has for developers.
OPERATIONS = {"summary", "ranking"}
DEVELOPERS = "Developers"

ROWS = [{"name": "north", "value": 12.5}, {"name": "south", "value": 7}, {"name": "west", "value": 31}]  # fmt: skip


def names(fleet: Fleet) -> list[str]:
    found = database.query(fleet, "SELECT name FROM backend_django_operation ORDER BY name")
    return [row["name"] for row in found]


def count(fleet: Fleet, table: str, where: str = "true") -> int:
    found = database.query(fleet, f"SELECT count(*) AS n FROM {table} WHERE {where}")  # noqa: S608  # the tests' own text
    return int(found[0]["n"])


# --- the container's scripts ------------------------------------------------------------------------


def test_fixtures_are_loaded_once_and_those_for_developers_are_not(processing: Fleet) -> None:
    assert processing.of("fleet")["celery_app_env"]["ENVIRONMENT"] == "production"
    assert set(names(processing)) == OPERATIONS
    assert len(names(processing)) == len(OPERATIONS)
    assert count(processing, "auth_group", f"name = '{DEVELOPERS}'") == 0
    assert count(processing, "site_config_setupflag", "setup_complete") == 1


@pytest.mark.stage(2)
def test_fixtures_are_loaded_once_by_two_hosts_at_once(processing: Fleet) -> None:
    """Three rounds, each from a database without fixtures; both hosts begin at the same moment."""
    for table in (
        "backend_django_processingresult",
        "backend_django_processingrequest",
        "backend_django_operation",
        "site_config_setupflag",
    ):
        database.execute(processing, f"DELETE FROM {table}")  # noqa: S608  # the tests' own text
    hosts = processing.hosts("celery_workers")
    assert len(hosts) == 2
    loaded = 0
    for _ in range(ROUNDS):
        answers = means.at_once(*(partial(fleets.must, processing, host, LOAD) for host in hosts))
        loaded += sum("loaded for production" in answer.text for answer in answers)
    assert loaded == 1
    test_fixtures_are_loaded_once_and_those_for_developers_are_not(processing)
    # Later edits by users are kept.
    database.execute(processing, "UPDATE backend_django_operation SET description = 'edited'")
    fleets.must(processing, hosts[0], LOAD)
    assert count(processing, "backend_django_operation", "description = 'edited'") == len(
        OPERATIONS
    )


def test_the_superuser_of_the_environment_can_log_in(processing: Fleet) -> None:
    """It is the only superuser, and can log in with its password."""
    variables = processing.of("celery_producers")
    environment = {**variables["celery_app_env"], **variables["celery_app_secret_env"]}
    text = "SELECT username, email FROM auth_user WHERE is_superuser AND is_staff AND is_active"
    found = database.query(processing, text)
    assert found == [
        {
            "username": environment["DJANGO_SUPERUSER_USERNAME"],
            "email": environment["DJANGO_SUPERUSER_EMAIL"],
        }
    ]
    script = """
import os
from django.contrib.auth import authenticate
print("let in", authenticate(username=os.environ["DJANGO_SUPERUSER_USERNAME"],
                             password=os.environ["DJANGO_SUPERUSER_PASSWORD"]) is not None)
"""
    words = ["exec", "--", "python", "manage.py", "shell", "--command", script]
    done = fleets.must(processing, processing.one("celery_producers"), words)
    assert "let in True" in done.output


def test_page_has_the_values_of_this_place(processing: Fleet) -> None:
    """No file that nginx serves has a placeholder, and the addresses in them work."""
    environment = processing.of("celery_producers")["celery_app_env"]
    page = web.api(processing, "/", login=False)
    assert page.status == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.body)
    static = environment["VITE_APP_STATIC_ROOT"]
    assert len(links) == 3, page.body
    assert all(link.startswith(f"{static}/") for link in links), links
    script = ""
    for link in links:
        answer = web.api(processing, link, login=False)
        assert answer.status == 200, link
        assert "PLACEHOLDER" not in answer.body, link
        if link.endswith(".js"):
            script = answer.body
    assert "PLACEHOLDER" not in page.body
    assert f'"{environment["VITE_APP_API_ROOT"]}"' in script


def test_build_in_the_release_keeps_its_placeholders(processing: Fleet) -> None:
    """Values are only put into a copy, because a release never changes."""
    host = processing.one("celery_producers")
    files = "/opt/processing/current/source/frontend/dist"
    found = processing.must(host, ["grep", "--recursive", "--count", "_PLACEHOLDER", files])
    assert any(not line.endswith(":0") for line in found.splitlines())


def test_workers_only_accept_json_and_limit_tasks_to_one_hour(processing: Fleet) -> None:
    host = processing.one("celery_workers")
    for node, found in means.ask(processing, host, "conf").items():
        settings = {name.lower().removeprefix("celery_"): value for name, value in found.items()}
        assert settings["accept_content"] == ["json"], node
        assert settings["task_serializer"] == "json", node
        assert settings["result_serializer"] == "json", node
        assert settings["task_time_limit"] == documented.TIME_LIMIT, node


# --- a request -------------------------------------------------------------------------------------


def submit(fleet: Fleet, data: Any, operation: str = "summary") -> dict[str, Any]:
    """Submit a request and return its id, which must come at once, however long the request takes."""
    began = time.monotonic()
    content = {"operation": operation, "data": data}
    answer = web.api(fleet, "/api/v1/requests", "POST", content=content)
    assert answer.status == 202, answer.body
    assert time.monotonic() - began < 20
    assert answer.json["status"] == "pending"
    found: dict[str, Any] = answer.json
    return found


def directories(fleet: Fleet, identity: int) -> list[str]:
    """Return working directories of a request, in the directory that each worker uses for temporary files."""
    place = fleet.of("fleet")["celery_app_env"].get("PROCESSING_WORK_DIR", "/tmp")
    found = []
    for host, unit in fleets.worker_units(fleet):
        pid = units.state(fleet, host, unit)["MainPID"]
        script = f"ls -d /proc/{pid}/root{place}/processing-{identity}-* 2>/dev/null"
        found += fleet.execute(host, script).output.split()
    return found


def poll(fleet: Fleet, submitted: dict[str, Any]) -> list[dict[str, Any]]:
    """Poll as the page does until the end; return each status once."""
    seen = [submitted]

    def look() -> bool:
        answer = web.api(fleet, submitted["status_url"])
        assert answer.status == 200, answer.body
        if answer.json["status"] != seen[-1]["status"]:
            seen.append(answer.json)
        return answer.json["status"] in ("completed", "failed")

    wait_for("it has ended", 30, look, pause=0.3)
    return seen


def test_request_goes_from_pending_to_completed(processing: Fleet) -> None:
    submitted = submit(processing, {"rows": ROWS, "wait": 4})
    identity = submitted["id"]
    made = wait_for("its directory is there", 10, lambda: directories(processing, identity), 0.3)
    assert len(made) == 1
    seen = poll(processing, submitted)
    assert [one["status"] for one in seen] == ["pending", "processing", "completed"]
    # It is being processed already.
    task = seen[1]["celery_task_id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", task)
    assert (seen[2]["celery_task_id"], seen[2]["error_message"]) == (task, "")
    host = processing.one("celery_producers")
    assert means.ask(processing, host, f"result {task}")["state"] == "SUCCESS"
    result = web.api(processing, seen[2]["result_url"])
    assert result.json["data"] == {"count": 3, "mean": 16.83, "lowest": 7.0, "highest": 31.0}
    output = web.api(processing, result.json["output_url"])
    assert (output.status, "mean,16.83" in output.body) == (200, True), output.body
    assert directories(processing, identity) == []


def test_request_that_fails_says_why(processing: Fleet) -> None:
    """Both the API and Celery give the reason, and its files are gone."""
    rows = [*ROWS, {"name": "east", "value": "much"}]
    submitted = submit(processing, {"rows": rows})
    last = poll(processing, submitted)[-1]
    assert last["status"] == "failed"
    assert "row 4 (east) has no number as its value" in last["error_message"]
    host = processing.one("celery_producers")
    found = means.ask_any(processing, host, f"result {last['celery_task_id']}")
    assert (found["state"], "row 4 (east)" in found["error"]) == ("FAILURE", True)
    assert web.api(processing, f"/api/v1/requests/{submitted['id']}/result").status == 409
    assert directories(processing, submitted["id"]) == []
    text = "SELECT status, error_message FROM backend_django_processingrequest WHERE id = :'id'"
    stored = database.query(processing, text, id=submitted["id"])
    assert stored == [{"status": "failed", "error_message": last["error_message"]}]


def test_task_is_done_on_the_documented_queue(processing: Fleet) -> None:
    last = poll(processing, submit(processing, {"rows": ROWS}, "ranking"))[-1]
    assert fleets.ran_on(processing, last["celery_task_id"]) == ["celery"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"operation": "no-such", "data": {}}, 422),
        ({"operation": "summary", "data": []}, 422),
        ({"operation": "summary"}, 422),
        (["summary"], 400),
    ],
)
def test_api_refuses_what_it_does_not_know(processing: Fleet, content: Any, status: int) -> None:
    before = count(processing, "backend_django_processingrequest")
    answer = web.api(processing, "/api/v1/requests", "POST", content=content)
    assert (answer.status, "detail" in answer.json) == (status, True), answer.body
    assert count(processing, "backend_django_processingrequest") == before


def test_api_asks_for_a_password(processing: Fleet) -> None:
    assert web.api(processing, "/api/v1/requests", login=False).status == 401


# --- the page's own script --------------------------------------------------------------------------

PAGE = (Path(__file__).parent / "page.js").read_text()


@pytest.fixture(scope="module")
def node(processing: Fleet) -> Iterator[str]:
    """Install a JavaScript interpreter on a host during the tests; return the host."""
    host = processing.one("celery_producers")
    environment = "DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes"
    processing.must(host, "apt-get update --quiet")
    processing.must(host, f"{environment} install --no-install-recommends nodejs")
    yield host
    processing.must(host, f"{environment} purge --autoremove nodejs")


def visit(fleet: Fleet, host: str, rows: str, *unanswered: int) -> Any:
    """Run the page's script, which sends a form and polls until it stops. Requests with these numbers get no answer."""
    variables = fleet.of("celery_producers")
    page = web.api(fleet, "/", login=False).body
    (link,) = re.findall(r'src="([^"]+\.js)"', page)
    login = "{celery_producer_web_auth_user}:{celery_producer_web_auth_password}"
    encoded = base64.b64encode(login.format_map(variables).encode()).decode()
    config = {
        "script": web.api(fleet, link, login=False).body,
        "site": f"https://{host}:{variables['celery_producer_web_port']}",
        "authorization": f"Basic {encoded}",
        "form": {"operation": "summary", "rows": rows},
        "unanswered": unanswered,
    }
    authority = f"NODE_EXTRA_CA_CERTS={variables['celery_app_ca']}"
    words = ["env", authority, "timeout", "60", "node", "-e", PAGE]
    return json.loads(fleet.must(host, words, json.dumps(config)))


@pytest.mark.stage(1)
def test_page_asks_every_two_seconds_until_the_end(processing: Fleet, node: str) -> None:
    """This is the document's pattern. The script only ends if it has stopped polling."""
    # The third request is the first for the status. It gets no answer, as in a deploy, and the next one does.
    seen = visit(processing, node, "north, 12.5\nsouth, 7\nwest, 31", 3)
    assert set(seen["choices"]) == OPERATIONS
    begun, *status, last = seen["asked"][1:]
    assert (begun["method"], begun["path"]) == ("POST", "/api/v1/requests")
    (path,) = {one["path"] for one in status}
    found = re.fullmatch(r"/api/v1/requests/(\d+)/status", path)
    assert found
    assert len(status) >= 2
    moments = [one["at"] for one in (begun, *status)]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    # Timers are late on a busy machine, and the first begins with the answer to the request.
    assert all(1.5 < gap < 6 for gap in gaps), gaps
    assert last["path"] == f"/api/v1/requests/{found[1]}/result"
    assert "no answer" in seen["said"][1]
    assert seen["said"][-1] == f"request {found[1]}: completed"
    assert json.loads(seen["result"])["count"] == 3
    assert seen["output"] == f"/api/v1/requests/{found[1]}/output"


@pytest.mark.stage(1)
def test_page_says_why_a_request_failed_and_stops(processing: Fleet, node: str) -> None:
    seen = visit(processing, node, "north, 12.5\neast, much")
    assert seen["asked"][-1]["path"].endswith("/status")
    assert seen["said"][-1].startswith("failed: ")
    assert "(east) has no number as its value" in seen["said"][-1]
    assert (seen["result"], seen["output"]) == ("", "")


# --- outages ---------------------------------------------------------------------------------------


@pytest.mark.stage(4)
def test_wait_for_the_database_has_a_bound(processing: Fleet) -> None:
    """The loop in the container's entrypoint had none."""
    host, server = processing.one("celery_workers"), processing.one("postgresql")
    unit = "postgresql@{postgresql_version}-main.service".format_map(processing.of("postgresql"))
    words = "exec -- python manage.py wait_for_database --timeout {}"
    processing.must(server, ["systemctl", "stop", unit])
    try:
        done = fleets.call(processing, host, words.format(3))
        assert done.status == 1, done.text
        assert "did not answer within 3 s" in done.errors
        assert "Traceback (most recent call last)" not in done.text
        assert done.seconds < 3 + 8
    finally:
        processing.must(server, ["systemctl", "start", unit])
    assert "answers after" in fleets.must(processing, host, words.format(30)).output
    for name in fleets.NAMES:
        units.wait_until_up(fleets.load(name), 60)


@pytest.mark.stage(5)
def test_a_request_without_a_broker_is_marked_as_failed(processing: Fleet) -> None:
    host, unit = means.broker(processing)
    with fleets.stopped(processing, host, unit):
        content = {"operation": "summary", "data": {"rows": ROWS}}
        answer = web.api(processing, "/api/v1/requests", "POST", content=content)
        assert answer.status == 503, answer.body
        found = web.api(processing, f"/api/v1/requests/{answer.json['id']}/status").json
        assert (found["status"], "broker" in found["error_message"]) == ("failed", True), found
    # And the next one is processed.
    taken: list[dict[str, Any]] = []

    def take() -> bool:
        answer = web.api(processing, "/api/v1/requests", "POST", content=content)
        if answer.status == 202:
            taken.append(answer.json)
        return bool(taken)

    wait_for("one is taken again", 30, take, pause=1)
    assert poll(processing, taken[0])[-1]["status"] == "completed"
