"""What docs/adopting.md says: an old worker beside the fleet's, on the same Redis, is stopped without a loss."""

from __future__ import annotations

import collections
import json
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

HOST = "worker2"
DIRECTORY = "/srv/legacy"
NODE = "celery@old"
#: The old application. Its task is slow, so that the worker also holds tasks that it has not begun.
CODE = """\
import time

from celery import Celery

app = Celery("shop")


@app.task(name="shop.weigh")
def weigh(text):
    time.sleep(1)
    return len(text)
"""
#: Sends tasks that the worker fetches and holds, and then others that it runs or that wait.
SEND = """\
import time

from legacy import weigh

for countdown in [60] * 6 + [None] * 12:
    print(weigh.apply_async(("apples",), countdown=countdown, queue="orders").id)
    time.sleep(0.3)
"""
UNIT = f"""\
[Service]
User=shop
WorkingDirectory={DIRECTORY}
EnvironmentFile={DIRECTORY}/environment
ExecStart=/opt/shop/current/venv/bin/python -m celery -A legacy worker -n {NODE} -Q orders --concurrency=1 -l INFO
[Install]
WantedBy=multi-user.target
"""
ENDED = re.compile(r"Task shop\.weigh\[([0-9a-f-]{36})\] succeeded")


def old_python(fleet: Fleet, *words: str) -> str:
    """Run the old application's Python, as its own documents would."""
    unit = [
        "systemd-run",
        "--quiet",
        "--pipe",
        "--wait",
        "--uid=shop",
        f"--working-directory={DIRECTORY}",
        f"--property=EnvironmentFile={DIRECTORY}/environment",
    ]
    return fleet.must(HOST, [*unit, "/opt/shop/current/venv/bin/python", *words])


def old_celery(fleet: Fleet, *words: str) -> str:
    return old_python(fleet, "-m", "celery", "-A", "legacy", *words)


def holds(fleet: Fleet, kind: str) -> list[str]:
    """Return the ids of the tasks that the old worker holds: `active`, `reserved` or `scheduled`."""
    answer = json.loads(old_celery(fleet, "inspect", kind, "-d", NODE, "--json"))
    return [task["request"]["id"] if kind == "scheduled" else task["id"] for task in answer[NODE]]


def runs(fleet: Fleet, since: int) -> collections.Counter[str]:
    """Return how often each task has ended, on the old worker and on the fleet's."""
    found: collections.Counter[str] = collections.Counter()
    for host in ("worker1", HOST):
        units = ["--unit=celery", "--unit=shop-worker@orders"]
        found.update(ENDED.findall(fleet.must(host, ["journalctl", f"--since=@{since}", *units])))
    return found


@pytest.fixture
def old_worker(fleet: Fleet) -> Iterator[None]:
    """Start a worker from a unit that someone wrote by hand."""
    password = (fleet.state / "project/secrets/redis").read_text().strip()
    options = "ssl_cert_reqs=required&ssl_ca_certs=/etc/celery-fleet/shop/pki/redis-ca.crt"
    url = f"rediss://app:{password}@services1:6379/0?{options}"
    fleet.must(HOST, ["install", "-d", "-o", "shop", "-m", "700", DIRECTORY])
    fleet.must(HOST, f"cat > {DIRECTORY}/legacy.py", CODE)
    environment = f"CELERY_BROKER_URL={url}\nCELERY_RESULT_BACKEND={url}\n"
    fleet.must(HOST, f"umask 077; cat > {DIRECTORY}/environment", environment)
    fleet.must(HOST, "cat > /etc/systemd/system/celery.service", UNIT)
    fleet.must(HOST, ["systemctl", "enable", "--now", "--quiet", "celery"])
    yield
    fleet.must(HOST, ["systemctl", "disable", "--now", "--quiet", "celery"])
    fleet.must(HOST, ["rm", "-r", "/etc/systemd/system/celery.service", DIRECTORY])
    fleet.must(HOST, ["systemctl", "daemon-reload"])


@pytest.mark.usefixtures("old_worker")
def test_an_old_worker_is_stopped_without_a_loss(fleet: Fleet) -> None:
    since = int(time.time())
    wait_for("the old worker answers", 60, lambda: NODE in old_celery(fleet, "status"), pause=2)
    sent = old_python(fleet, "-c", SEND).split()
    later = holds(fleet, "scheduled")
    assert later, "the old worker holds no task with an ETA, so this shows nothing"

    old_celery(fleet, "control", "cancel_consumer", "orders", "-d", NODE)
    wait_for(
        "it has ended what it had begun or fetched",
        60,
        lambda: not holds(fleet, "active") and not holds(fleet, "reserved"),
        pause=1,
    )
    fleet.must(HOST, ["systemctl", "disable", "--now", "--quiet", "celery"])

    wait_for(
        "all tasks have run",
        120,
        lambda: len(runs(fleet, since).keys() & set(sent)) == len(sent),
        pause=3,
    )
    ended = runs(fleet, since)
    assert {task: ended[task] for task in sent} == dict.fromkeys(sent, 1)
    old = fleet.must(HOST, ["journalctl", f"--since=@{since}", "--unit=celery"])
    assert ENDED.search(old), "the old worker ran nothing, so this shows nothing"
    assert not set(later) & set(ENDED.findall(old))
