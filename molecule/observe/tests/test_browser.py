"""Flower and Prometheus in a browser: what their pages show, and that Flower shows nothing without a password."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from browser import Browser
from prometheus import HOST, Prometheus
from support.inventory import Fleet
from support.tasks import Task, send, tracer
from support.waiting import wait_for

RATE = 'sum by (queue_name) (rate(celery_task_succeeded_total{app="flexiprice"}[1m]))'


@pytest.fixture(scope="module")
def ran(fleet: Fleet, prometheus: Prometheus) -> str:
    """Some minutes' worth of tasks, of which some failed; return the id of one that succeeded."""
    tasks = [tracer(f"browser-{number}", "discounts", 0.2) for number in range(120)]
    tasks += [tracer(f"browser-a-{number}", "analytics", 0.3) for number in range(40)]
    first, *_ = send(fleet, tasks)
    send(fleet, [Task("app.tasks.my_custom_task", "analytics")] * 2)
    # A series that has just begun has no rate.
    counted = 'celery_task_succeeded_total{queue_name=~"discounts|analytics"}'
    wait_for(
        "Prometheus knows both queues",
        120,
        lambda: len(prometheus.query(f"count by (queue_name) ({counted})")) == 2,
        pause=2,
    )
    send(fleet, tasks)
    wait_for(
        "Prometheus has counted them",
        120,
        lambda: len(prometheus.query(f"{RATE} > 0")) >= 2,
        pause=2,
    )
    return first


def flower(fleet: Fleet, path: str, *, login: bool = True) -> str:
    variables = fleet.of("flower")
    user, password = variables["flower_auth_user"], quote(str(variables["flower_auth_password"]))
    return f"https://{f'{user}:{password}@' if login else ''}control1:{variables.get('flower_port', 5555)}{path}"


def test_flower_shows_workers_tasks_and_the_broker(
    fleet: Fleet, browser: Browser, ran: str
) -> None:
    workers, tasks, task, broker = browser.show(
        {"url": flower(fleet, "/workers"), "wait": "4 of 4 workers", "name": "flower-workers"},
        {"url": flower(fleet, "/tasks"), "wait": "SUCCESS", "name": "flower-tasks"},
        {"url": flower(fleet, f"/task/{ran}"), "wait": "SUCCESS"},
        {"url": flower(fleet, "/broker"), "wait": "analytics"},
    )
    # A narrow column breaks names anywhere.
    shown = "".join(workers["text"].split())
    for node in ("discounts@worker1", "discounts@worker2", "maintenance@worker1"):
        assert node in shown
    assert "Online" in workers["text"]
    assert "SUCCESS" in tasks["text"]
    for words in (ran, "record_run", "discounts@worker"):
        assert words in task["text"]
    for queue in ("discounts", "maintenance", "analytics"):
        assert queue in broker["text"]


def test_flower_shows_nothing_without_the_password(fleet: Fleet, browser: Browser) -> None:
    """A browser without a window can't ask for it, so its pages stay empty; the next test has the statuses."""
    (page,) = browser.show(
        {"url": flower(fleet, "/workers", login=False), "wait": "", "name": "flower-refused"}
    )
    assert "analytics" not in page["text"]
    assert "Flower" not in page["title"]


def routes(fleet: Fleet) -> list[str]:
    """All paths that Flower has, with something for each of their parameters."""
    program = (
        "import json\n"
        "from flower.urls import handlers\n"
        "print(json.dumps([one[0] if isinstance(one, tuple) else one.matcher.regex.pattern for one in handlers]))\n"
    )
    python = "/opt/flexiprice/flower/current/venv/bin/python"
    patterns: list[str] = json.loads(fleet.must("control1", [python, "-c", program]))
    return patterns


def path_of(pattern: str) -> str:
    """Return a path that a route's regular expression matches."""
    text = pattern.removesuffix("$").removesuffix("/?")
    if not text.startswith("/"):  # the last one, for all others
        return "/no-such-path"
    while "(" in text:
        start = text.index("(")
        depth, end = 0, start
        for end in range(start, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0:
                break
        text = f"{text[:start]}x{text[end + 1 :]}"
    return text.replace("\\", "")


def test_every_route_of_flower_asks_for_the_password(fleet: Fleet) -> None:
    """The routes come from the installed version of Flower."""
    patterns = routes(fleet)
    assert len(patterns) > 20
    statuses: dict[str, Any] = {}
    for pattern in patterns:
        path = path_of(pattern)
        ask = [
            "curl",
            "--silent",
            "--insecure",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]
        for method in ("GET", "POST"):
            found = fleet.must(HOST, [*ask, "--request", method, flower(fleet, path, login=False)])
            statuses[f"{method} {path}"] = found
    assert {path: found for path, found in statuses.items() if found != "401"} == {}


def test_prometheus_shows_the_load(browser: Browser, ran: str) -> None:
    url = f"http://127.0.0.1:9090/classic/graph?g0.expr={quote(RATE)}&g0.tab=0&g0.range_input=10m"
    graph, alerts, targets = browser.show(
        {"url": url, "wait": "discounts", "name": "prometheus-graph"},
        {
            "url": "http://127.0.0.1:9090/classic/alerts",
            "wait": "CeleryWorkerDown",
        },
        {
            "url": "http://127.0.0.1:9090/classic/targets",
            "wait": "worker2",
            "name": "prometheus-targets",
        },
    )
    assert "discounts" in graph["text"]
    assert "CeleryQueueOld" in alerts["text"]
    assert targets["text"].count("UP") >= 4
