"""Each operator's command in the documents has an equivalent, which says soon and clearly if its broker is down.

The commands are those of docs/commands.md, typed here again, each with what its answer must contain.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from support import fleets, resp, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

BOUND = 10  # seconds within which a command must say that the broker is away
PYTHON = 2  # seconds more that a busy machine may take to start it

OPERATOR = "exec --as operator -- celery -A"
# Application -> group of the host, what is typed after `celery-fleet`, and what the answer contains. `{nodes}` means
# all workers: one that does not answer would be missing.
COMMANDS: dict[str, list[tuple[str, str, str]]] = {
    "aiecommerce": [
        ("celery_workers", "status", r"All is well"),
        ("celery_workers", "logs worker", r"Task run_\w+\[.* succeeded"),
        ("celery_beat", "logs beat", r"beat: Starting"),
        ("celery_beat", "schedule", r"America/Guayaquil"),
        ("redis", "redis -- ping", r"^PONG$"),
        ("redis", "redis results -- ping", r"^PONG$"),
        ("celery_workers", f"{OPERATOR} aiecommerce inspect ping", r"{nodes}"),
        ("celery_producers", f"{OPERATOR} aiecommerce call run_prune_scrapes", r"^[0-9a-f-]{36}$"),
    ],
    "flash_promos": [
        ("celery_workers", "status", r"All is well"),
        *(
            ("celery_workers", f"{way} {question}", r"{nodes}")
            for way in ("--format json inspect", f"{OPERATOR} marketplace inspect")
            for question in ("active", "scheduled", "stats", "conf", "registered")
        ),
        ("celery_workers", "inspect stats", r"(?s)default@worker1.*default@worker2"),
        ("celery_workers", "inspect conf", r"CELERY_TASK_ACKS_LATE: True"),
        ("celery_workers", "inspect conf", r"CELERY_WORKER_PREFETCH_MULTIPLIER: 1\b"),
        ("celery_workers", "inspect conf", r"CELERY_WORKER_MAX_TASKS_PER_CHILD: 1000\b"),
        ("celery_workers", "inspect registered", r"promotions\.tasks\.process_notification_queue"),
        ("celery_workers", "logs worker default", r"\] Task promotions\.tasks\."),
        ("celery_beat", "logs beat -n 20", r"Sending due task"),
        ("celery_beat", "schedule", r"process-notification-queue-every-30s"),
        ("redis", "redis -- ping", r"^PONG$"),
        ("redis", "redis results -- ping", r"^PONG$"),
    ],
    "flexiprice": [
        ("celery_workers", "status", r"All is well"),
        *(
            ("celery_workers", f"{way} {question}", r"{nodes}")
            for way in ("--format json inspect", f"{OPERATOR} app.celery_app inspect")
            for question in ("active", "scheduled", "stats", "registered")
        ),
        *(
            ("celery_workers", f"exec --as operator -- python scripts/celery_manager.py {verb}", r"{nodes}")
            for verb in ("active", "scheduled")
        ),
        ("celery_workers", "logs worker", r"Task app\.tasks\."),
        ("celery_beat", "logs beat", r"beat: Starting"),
        ("redis", "redis -- ping", r"^PONG$"),
        (
            "celery_producers",
            "exec -- python -c 'from app.celery_app import celery_app; print(celery_app)'",
            r"<Celery flexiprice",
        ),
    ],
}  # fmt: skip
CASES = [(name, *case) for name, cases in COMMANDS.items() for case in cases]


# These come after tasks have run, so that the logs have lines of them.
@pytest.mark.stage(1)
@pytest.mark.parametrize(("name", "group", "words", "answer"), CASES)
def test_a_documented_command_answers(name: str, group: str, words: str, answer: str) -> None:
    fleet = fleets.load(name)
    done = fleets.must(fleet, fleet.one(group), words)
    if answer == "{nodes}":
        assert [node for node in fleets.nodes(fleet) if node not in done.output] == []
    else:
        assert re.search(answer, done.output, re.MULTILINE), done.text[-3000:]


@pytest.mark.parametrize("verb", ["worker", "beat", "flower"])
def test_verbs_of_the_manager_for_services_name_the_units(flexi: Fleet, verb: str) -> None:
    host = flexi.one("celery_beat")
    done = fleets.call(flexi, host, f"exec -- python scripts/celery_manager.py {verb}", "", 30)
    unit = "flexiprice-worker@*" if verb == "worker" else f"flexiprice-{verb}"
    assert (done.status, "systemctl status" in done.errors, unit in done.errors) == (2, True, True)


def test_worker_started_by_hand_is_refused(fleet: Fleet) -> None:
    host = fleet.one("celery_workers")
    before = fleets.pids(fleet)
    done = fleets.call(fleet, host, "exec --timeout 30 -- celery worker --loglevel=info")
    assert done.status not in (0, 124)
    assert f"{fleets.app_of(fleet)}-worker@" in done.text
    assert fleets.pids(fleet) == before


SHELL = """\
from promotions.tasks import check_active_promos
result = check_active_promos.delay()
print("said", sorted(result.get(timeout=20)))
"""


def test_shell_calls_a_task_and_waits_for_its_result(flash: Fleet) -> None:
    """These are the document's lines; the third is its `result.get()`, with its value printed."""
    words = "exec -- python manage.py shell"
    done = fleets.must(flash, flash.one("celery_producers"), words, SHELL)
    assert "said ['activated', 'expired', 'queued']" in done.output, done.text


def test_several_applications_ask_for_a_name(flash: Fleet) -> None:
    done = flash.execute(flash.one("celery_workers"), ["celery-fleet", "status"])
    assert done.status == 2
    assert [
        name for name in fleets.NAMES if fleets.app_of(fleets.load(name)) not in done.errors
    ] == []
    assert "--app" in done.errors


# --- what changes something ------------------------------------------------------------------------


def children(fleet: Fleet) -> dict[fleets.Unit, set[str]]:
    """Return the processes of each worker's pool."""
    found = {}
    for host, unit in fleets.worker_units(fleet):
        main = units.state(fleet, host, unit)["MainPID"]
        # There are none for a moment, while the pool is replaced.
        found[host, unit] = set(fleet.execute(host, ["pgrep", "--parent", main]).output.split())
    return found


@pytest.mark.stage(2)
def test_pool_restart(flash: Fleet) -> None:
    """Each pool process is replaced after its next task, and the workers stay the same."""
    before, pools = fleets.pids(flash), children(flash)
    host = flash.one("celery_workers")
    done = fleets.must(flash, host, f"{OPERATOR} marketplace control pool_restart")
    assert [node for node in fleets.nodes(flash) if node not in done.output] == []

    def replaced() -> bool:
        # An idle process only notices after its next task.
        fleets.send(flash, *[fleets.task("promotions.tasks.process_notification_queue")] * 8)
        now = children(flash)
        return all(len(now[key]) >= 2 and now[key].isdisjoint(pools[key]) for key in pools)

    wait_for("all processes of the pools are new", 60, replaced)
    assert fleets.pids(flash) == before
    fleets.run(flash, "promotions.tasks.process_notification_queue")


def waiting(fleet: Fleet, queue: str) -> int:
    """Return the number of messages in a queue."""
    with resp.session(fleet, "broker", "operator") as client:
        return int(client.send("LLEN", queue))


@pytest.mark.stage(2)
def test_stopped_application_is_purged_and_the_others_lose_nothing(
    flash: Fleet, flexi: Fleet, shop: Fleet, label: str
) -> None:
    """Its target is stopped on all hosts; the others continue, while tasks wait in their brokers."""
    others = fleets.Look.at(flexi, shop)
    app, host = fleets.app_of(flash), flash.one("celery_workers")
    try:
        # Beat first, so that it sends nothing without a worker.
        for name in flash.hosts("celery_beat") + flash.hosts("celery_workers"):
            flash.must(name, ["systemctl", "stop", f"{app}.target", f"{app}-*.service"])
        assert {unit.partition("@")[0] for _, unit in fleets.pids(flash)} == {"redis"}
        others.unchanged()
        assert (units.down(flexi), units.down(shop)) == ([], [])

        # These are held for longer than the purge takes.
        held = [
            (other, fleets.send(other, fleets.task(task, *arguments, countdown=20))[0].id)
            for other, task, arguments in (
                (flexi, "app.tasks.my_custom_task", (label, 1)),
                (shop, "run_prune_scrapes", ()),
            )
        ]
        number = waiting(flash, "celery") + 5
        fleets.send(flash, *[fleets.task("promotions.tasks.check_active_promos")] * 5)
        assert waiting(flash, "celery") == number
        # It asks first, and the answer is no.
        asked = fleets.call(flash, host, f"{OPERATOR} marketplace purge", "no\n")
        assert waiting(flash, "celery") == number, asked.text
        done = fleets.must(flash, host, f"{OPERATOR} marketplace purge -f")
        assert f"{number} messages" in done.output
        assert waiting(flash, "celery") == 0
    finally:
        for name in flash.hosts("celery_workers") + flash.hosts("celery_beat"):
            flash.must(name, ["systemctl", "start", f"{app}.target"])
        units.wait_until_up(flash, 60)
    for other, identity in held:
        wait_for(
            f"{identity} has run",
            40,
            lambda other=other, identity=identity: fleets.state_of(other, identity) == "SUCCESS",
            pause=2,
        )
    others.unchanged()


@pytest.mark.stage(2)
def test_managers_purge(flexi: Fleet) -> None:
    done = fleets.must(
        flexi, flexi.one("celery_workers"), "exec --as operator -- python scripts/celery_manager.py purge -f"
    )  # fmt: skip
    assert re.search(r"No messages|Purged \d+ message", done.output), done.text


# --- without its broker ----------------------------------------------------------------------------

# Commands from above that need the broker, and commands that send.
WITHOUT: dict[str, list[tuple[str, str]]] = {
    "aiecommerce": [
        ("celery_workers", "status"),
        ("celery_workers", "inspect active"),
        ("celery_workers", f"{OPERATOR} aiecommerce inspect active"),
        ("celery_workers", f"{OPERATOR} aiecommerce purge -f"),
        ("celery_producers", f"{OPERATOR} aiecommerce call run_prune_scrapes"),
        ("redis", "redis -- ping"),
    ],
    "flash_promos": [
        ("celery_workers", "status"),
        *(("celery_workers", f"inspect {question}") for question in ("active", "stats", "conf")),
        ("celery_workers", f"{OPERATOR} marketplace inspect active"),
        ("celery_workers", f"{OPERATOR} marketplace purge -f"),
        ("celery_workers", f"{OPERATOR} marketplace control pool_restart"),
        ("redis", "redis -- ping"),
    ],
    "flexiprice": [
        ("celery_workers", "status"),
        ("celery_workers", "inspect registered"),
        ("celery_workers", "exec --as operator -- python scripts/celery_manager.py active"),
        ("celery_workers", "exec --as operator -- python scripts/celery_manager.py purge -f"),
        ("redis", "redis -- ping"),
    ],
}


@pytest.mark.stage(3)
def test_each_command_says_in_time_that_its_broker_is_down(
    fleet: Fleet, others: tuple[Fleet, ...]
) -> None:
    name = next(name for name in fleets.NAMES if fleets.load(name) is fleet)
    app, server = fleets.app_of(fleet), fleet.one("redis")
    port = str(resp.port_of(fleet, "broker"))
    look = fleets.Look.at(*others)
    wrong = []
    with fleets.stopped(fleet, server, f"redis@{app}-broker.service"):
        for group, words in WITHOUT[name]:
            done = fleets.call(fleet, fleet.one(group), words, hurried=True)
            clear = re.search(r"(?i)broker|connect|refused", done.text) and port in done.text
            if (
                done.status == 0
                or "Traceback (most recent call last)" in done.text
                or not clear
                or done.seconds > BOUND + PYTHON
            ):
                wrong.append(
                    f"{words}: status {done.status}, {done.seconds:.1f} s: {done.text[-800:]}"
                )
        # Commands that need no broker answer as usual.
        json.loads(fleets.must(fleet, fleet.one("celery_beat"), "--format json schedule").output)
        fleets.must(fleet, server, "redis results -- ping")
        for other in others:
            fleets.must(other, other.one("celery_workers"), "status")
    assert wrong == []
    look.unchanged()


@pytest.mark.stage(3)
def test_a_call_in_the_shell_fails_in_time_without_a_broker(flash: Fleet) -> None:
    """The shell is Python's, so it shows an exception as Python does."""
    app = fleets.app_of(flash)
    with fleets.stopped(flash, flash.one("redis"), f"redis@{app}-broker.service"):
        began = time.monotonic()
        words = ["exec", "--", "python", "manage.py", "shell", "--command", SHELL]
        done = fleets.call(flash, flash.one("celery_producers"), words, hurried=True)
        assert (done.status != 0, "OperationalError" in done.errors) == (True, True), done.text
        assert time.monotonic() - began <= BOUND + PYTHON
