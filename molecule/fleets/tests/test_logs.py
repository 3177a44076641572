"""Log lines have the documented format. Log files are rotated under load without losing a line."""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from support import fleets, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.inventory import Fleet

# Typed from the document: '[%(asctime)s: %(levelname)s/%(processName)s] %(message)s', and for what tasks log, the same
# with '[%(task_name)s(%(task_id)s)]' before the message.
STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: (?P<level>[A-Z]+)/(?P<process>[A-Za-z0-9-]+)\]"
WORKER = re.compile(STAMP + r" Task (?P<task>[\w.]+)\[(?P<id>[0-9a-f-]{36})\] (?P<what>\w+)")
TASK = re.compile(STAMP + r"\[(?P<task>[\w.]+)\((?P<id>[0-9a-f-]{36})\)\] (?P<what>.+)")

ROBUST = "promotions.tasks.robust_task"
LOAD = 500  # tasks, each of which logs its id
ROTATIONS = 4

# Each task counts the messages of all active promotions and logs one line. The pauses match the workers' speed.
SEND_MANY = f"""
import json, os, sys, time
from celery.app.utils import find_app
app = find_app(os.environ["CELERY_APP"])
sent = []
for number in range(int(sys.argv[1])):
    sent.append(app.send_task("{ROBUST}"))
    time.sleep(0.02)
for each in sent:
    each.get(timeout=60)
print(json.dumps([each.id for each in sent]))
"""


def test_lines_have_the_documented_format(flash: Fleet) -> None:
    done = fleets.run(flash, ROBUST)
    lines = [
        text
        for host, unit in fleets.worker_units(flash)
        for _, text in fleets.journal(flash, host, unit)
        if done.id in text
    ]
    received, succeeded = (
        [WORKER.match(text) for text in lines if word in text] for word in ("received", "succeeded")
    )
    assert [found and (found["process"], found["task"]) for found in received] == [
        ("MainProcess", ROBUST)
    ]
    assert [found and found["level"] for found in succeeded] == ["INFO"]
    own = [found for found in map(TASK.match, lines) if found]
    assert [(found["level"], found["task"], found["what"]) for found in own] == [
        ("INFO", ROBUST, "attempt 1")
    ]
    assert own[0]["process"].startswith("ForkPoolWorker-")


@pytest.mark.stage(7)
class TestFiles:
    """Deploy one application with log files for these tests; the last test goes back."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def logging_to_files(cls, flash: Fleet, workshop: fleets.Workshop) -> Iterator[None]:
        others = fleets.Look.at(fleets.load("flexiprice"), fleets.load("aiecommerce"))
        run = workshop.site(
            flash, "log-files", workshop.variables(celery_app_log_destination="file")
        )
        assert run.status == 0, run.end
        others.unchanged()
        yield
        workshop.settle(flash, "log-journal")
        others.unchanged()

    def everything(self, flash: Fleet, host: str) -> str:
        """Return the content of all files of the worker, including rotated and compressed ones."""
        app = fleets.app_of(flash)
        script = f"cd /var/log/{app} && zcat --force celery_default.log*"
        return flash.must(host, script)

    def test_worker_beat_and_flower_each_have_their_file(self, flash: Fleet) -> None:
        app = fleets.app_of(flash)
        control = flash.one("celery_beat")
        for host in flash.hosts("celery_workers"):
            assert (
                "consuming"
                in units.state(flash, host, f"{app}-worker@default.service")["StatusText"]
            )
            assert (
                flash.must(host, ["stat", "-c", "%U", f"/var/log/{app}/celery_default.log"])
                == f"{app}\n"
            )
        # At least one line every half minute.
        path = f"/var/log/{app}/celery_beat.log"
        wait_for(
            "beat writes",
            45,
            lambda: "Sending due task" in flash.execute(control, ["cat", path]).output,
        )
        assert flash.must(control, ["cat", f"/var/log/{app}-flower/flower.log"]).strip()
        # Neither other applications nor all users.
        for path in (f"/var/log/{app}", f"/var/log/{app}-flower"):
            assert (
                flash.execute(control, ["runuser", "-u", "aiecommerce", "--", "ls", path]).status
                != 0
            )

    def test_an_operator_reads_the_files(self, flash: Fleet) -> None:
        done = fleets.run(flash, ROBUST)
        found = [
            fleets.must(flash, host, "logs worker default -n 50").output
            for host in flash.hosts("celery_workers")
        ]
        assert sum(done.id in text for text in found) == 1

    def test_rotation_under_load_loses_no_line(self, flash: Fleet) -> None:
        app, hosts = fleets.app_of(flash), flash.hosts("celery_workers")
        before = fleets.pids(flash)
        answers: list[fleets.Answer] = []
        sender = threading.Thread(
            target=lambda: answers.append(fleets.python(flash, SEND_MANY, str(LOAD)))
        )
        sender.start()
        seen = []
        for _ in range(ROTATIONS):
            sender.join(2.5)
            seen.append(sender.is_alive())
            for host in hosts:
                flash.must(host, ["logrotate", "--force", f"/etc/logrotate.d/{app}"])
        sender.join(120)
        assert answers, "the tasks were not all sent and done"
        assert seen.count(True) >= 2, "the load was over before the rotations"
        sent = set(answers[0].last)
        texts = [self.everything(flash, host) for host in hosts]
        lines = [line for text in texts for line in text.splitlines()]
        own = Counter(
            found["id"]
            for found in map(TASK.match, lines)
            if found and found["what"] == "attempt 1"
        )
        assert {identity: own[identity] for identity in sent} == dict.fromkeys(sent, 1)
        ends = {
            what: {
                found["id"] for found in map(WORKER.match, lines) if found and found["what"] == what
            }
            for what in ("received", "succeeded")
        }
        assert [sent - ids for ids in ends.values()] == [set(), set()]
        for host in hosts:
            listed = flash.must(host, f"ls /var/log/{app}").split()
            assert {"celery_default.log.1", "celery_default.log.2.gz"} <= set(listed)
        assert fleets.pids(flash) == before, "a rotation has restarted something"

    def test_logs_go_back_to_the_journal(self, flash: Fleet, workshop: fleets.Workshop) -> None:
        workshop.settle(flash, "log-journal-again")
        app = fleets.app_of(flash)
        sizes = {
            host: flash.must(host, f"stat -c '%n %s' /var/log/{app}/celery_default.log")
            for host in flash.hosts("celery_workers")
        }
        done = fleets.run(flash, ROBUST)
        found = [
            text
            for host, unit in fleets.worker_units(flash)
            for _, text in fleets.journal(flash, host, unit)
            if done.id in text
        ]
        assert any(TASK.match(text) for text in found)
        for host, size in sizes.items():
            assert flash.must(host, f"stat -c '%n %s' /var/log/{app}/celery_default.log") == size
            assert flash.execute(host, ["test", "-e", f"/etc/logrotate.d/{app}"]).status == 1
