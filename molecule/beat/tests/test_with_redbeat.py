"""The same fleet with its schedule on the broker, which the application edits while beat runs."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from beats import EVERY, QUEUE, Beats
from support import plays, resp, tasks
from support.inventory import ROOT
from support.waiting import wait_for

#: Seconds within which another beat has to send after a crash.
AFTER_A_LOSS = 30.0

#: What celery-redbeat needs and FlexiPrice's own requirements lack.
PACKAGES = ("celery-redbeat", "tenacity")

EDIT = """
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry
from app.celery_app import celery_app as app
"""


@pytest.fixture(scope="module")
def variables(beats: Beats, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the variables of a release that brings celery-redbeat."""
    source = tmp_path_factory.mktemp("source") / "backend"
    shutil.copytree(ROOT / "examples/flexiprice/backend", source)
    locked = (ROOT / "requirements/dev.txt").read_text()
    blocks = [re.findall(rf"^{name}==(?:.*\\\n)*.*\n", locked, re.MULTILINE) for name in PACKAGES]
    with (source / "requirements.txt").open("a") as lines:
        lines.writelines(block for (block,) in blocks)
    return json.dumps(
        {"celery_beat_scheduler": "redbeat", "celery_app_source": {"path": str(source)}}
    )


def test_a_run_moves_the_schedule_to_the_broker(beats: Beats, variables: str) -> None:
    run = plays.play(beats.fleet, "redbeat", "-e", variables)
    assert run.status == 0, run.end
    beats.sender()
    again = plays.play(beats.fleet, "redbeat-again", "-e", variables)
    assert again.status == 0, again.end
    assert not any(again.changed.values()), again.end


def test_another_one_follows_a_crash(beats: Beats) -> None:
    with beats.measured(AFTER_A_LOSS):
        beats.kill(beats.sender(), "KILL")
    beats.sender()


def test_the_application_edits_the_schedule(beats: Beats) -> None:
    host = beats.fleet.one("celery_producers")
    name = beats.unit.removesuffix(".service")
    arguments = (
        f"'own', 'app.tasks.record_tick', schedule(1), args=['own'], options={{'queue': '{QUEUE}'}}"
    )
    make = f"RedBeatSchedulerEntry({arguments}, app=app)"
    tasks.run_in_release(beats.fleet, host, "web", "producer", f"{EDIT}{make}.save()")

    def sent() -> int:
        with resp.session(beats.fleet, "broker", "operator") as operator:
            messages = operator.send("LRANGE", QUEUE, 0, -1)
        return sum("own" in json.loads(message)["headers"]["argsrepr"] for message in messages)

    wait_for("the entry runs", 60, lambda: sent() >= 3)
    shown = json.loads(beats.fleet.must(beats.sender(), ["cat", f"/run/{name}/schedule.json"]))[
        "entries"
    ]
    assert {one["source"] for one in shown if one["name"] == "own"} == {"redbeat"}
    table = beats.fleet.must(beats.sender(), ["celery-fleet", "schedule"])
    assert "own" in table
    remove = "RedBeatSchedulerEntry.from_key('redbeat:own', app=app).delete()"
    tasks.run_in_release(beats.fleet, host, "web", "producer", f"{EDIT}{remove}")
    number = sent()
    beats.wait_for_runs(3)
    assert sent() <= number + EVERY
    assert resp.acl_log(beats.fleet, "broker") == []
