"""What a change costs: the plan says it, the run does that and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from support import database, resp, tasks, units
from support.change import OTHER_PASSWORD, SENDING, Done, Fleets, Unit
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet


PROBE = 3.0  # seconds between two runs of this entry, which only the inventory of these tests has
TOLERANCE = 1.5  # seconds by which beat's log may be later than what it is about
LATE = 2.0  # seconds that beat may take from its start until it sends what is overdue


@pytest.fixture
def fleet(changes: Fleets) -> Fleet:
    return changes.fleet


def all_workers(changes: Fleets) -> set[Unit]:
    return {
        changes.unit(name, worker)
        for name in changes.fleet.hosts("celery_workers")
        for worker in changes.fleet.expected[name]["celery_worker_host_instances"]
    }


def named(changes: Fleets, worker: str) -> set[Unit]:
    unit = changes.unit("", worker)[1]
    return {found for found in all_workers(changes) if found[1] == unit}


def test_nothing_to_do(changes: Fleets) -> None:
    before, files = changes.pids(), changes.files()
    planned = changes.plan("nothing-plan")
    assert (planned.items, planned.plan["changes"]) == ([], False)
    done = changes.site("nothing")
    assert done.run.status == 0, done.run.end
    assert not any(done.run.changed.values())
    assert changes.restarted(before) == set()
    assert changes.files() == files


# --- one change after the other --------------------------------------------------------------------

# Title, changes of the inventory, and the units that have to restart, reload or be set live.
Change = tuple[Callable[[Fleets], list[str]], Callable[[Fleets], dict[str, set[Unit]]]]


def one_workers_concurrency() -> Change:
    def words(changes: Fleets) -> list[str]:
        return changes.layer(
            worker1={"celery_worker_instances": changes.workers("discounts", concurrency=3)}
        )

    return words, lambda changes: {"restart": {changes.unit("worker1", "discounts")}}


def memory_of_the_broker() -> Change:
    def units_of(changes: Fleets) -> dict[str, set[Unit]]:
        return {"live": {("redis1", f"redis@{changes.app}-broker.service")}}

    return lambda changes: changes.variables(redis_broker_maxmemory="320mb"), units_of


def environment_of_the_producer() -> Change:
    def words(changes: Fleets) -> list[str]:
        web = changes.fleet.of("celery_producers")["celery_producer_web"]
        return changes.variables(celery_producer_web={**web, "environment": {"SOME_SWITCH": "on"}})

    return words, lambda changes: {"restart": {("control1", f"{changes.app}-web.service")}}


def password_of_the_web_site() -> Change:
    """nginx reads it at each request; nothing has to do anything."""

    def words(changes: Fleets) -> list[str]:
        return changes.variables(celery_producer_web_auth_password=OTHER_PASSWORD)

    return words, lambda _: {}


def timeout_of_the_web_site() -> Change:
    return (
        lambda changes: changes.variables(
            celery_producer_web_protected_paths=["/api/v1/admin/", "/docs"]
        ),
        lambda _: {"reload": {("control1", "nginx.service")}},
    )


def environment_of_the_application() -> Change:
    """Only processes that read it restart."""

    def units_of(changes: Fleets) -> dict[str, set[Unit]]:
        others = {
            ("control1", f"{changes.app}-{part}.service") for part in ("beat", "web", "flower")
        }
        return {"restart": all_workers(changes) | others}

    return lambda changes: changes.variables(celery_app_env={"SOME_SWITCH": "on"}), units_of


@pytest.mark.parametrize(
    "together",
    [
        (one_workers_concurrency, memory_of_the_broker, timeout_of_the_web_site),
        (environment_of_the_producer, password_of_the_web_site),
        (environment_of_the_application,),
    ],
    ids=lambda together: together[0].__name__,
)
@pytest.mark.usefixtures("settled")
def test_plan_dry_run_and_run_agree(
    changes: Fleets, together: Sequence[Callable[[], Change]]
) -> None:
    """Changes of different units are made together, because none affects the units of another."""
    arguments: list[str] = []
    wanted: dict[str, set[Unit]] = {}
    for change in together:
        words, units_of = change()
        arguments += words(changes)
        for action, found in units_of(changes).items():
            wanted[action] = wanted.get(action, set()) | found
    title = together[0].__name__.replace("_", "-")
    before, files = changes.pids(), changes.files()

    planned = changes.plan(f"{title}-plan", *arguments)
    dry = changes.site(f"{title}-check", "--check", *arguments)
    assert dry.run.status == 0, dry.run.end
    assert (changes.pids(), changes.files()) == (before, files), "a plan has changed something"

    done = changes.site(title, *arguments)
    assert done.run.status == 0, done.run.end
    assert planned.items == dry.items == done.items
    for action in ("restart", "reload", "live"):
        assert done.of(action) == wanted.get(action, set()), done.items
    assert_text_says_the_same(planned, dry, done)
    assert changes.restarted(before) == wanted.get("restart", set())
    touched = {name for name, number in done.run.changed.items() if number}
    assert touched == {item.host for item in done.items}
    assert changes.plan(f"{title}-after", *arguments).items == []


def assert_text_says_the_same(*runs: Done) -> None:
    for done in runs:
        assert [item for item in done.items if not done.says(item)] == []


# --- a worker leaves -------------------------------------------------------------------------------


def kept_of(fleet: Fleet, node: str) -> list[str]:
    """Return what the broker still has of a node's direct queue."""
    queue = f"{node}.dq2"
    with resp.session(fleet, "broker", "worker") as broker:
        found = [queue] if broker.send("EXISTS", queue) else []
        for key in ("_kombu.binding.C.dq2", "_kombu.binding_permanent.C.dq2"):
            found += [f"{key}: {one}" for one in broker.send("SMEMBERS", key) if queue in one]
        deadlines = broker.send("ZRANGE", "_kombu.binding_deadlines", 0, -1)
    return found + [f"deadline: {one}" for one in deadlines if queue in one]


@pytest.mark.usefixtures("settled")
def test_nothing_of_a_removed_worker_is_left(changes: Fleets, fleet: Fleet, label: str) -> None:
    name, worker = "worker2", "discounts"
    unit, node = changes.unit(name, worker), f"{worker}@{name}"
    others = [one for one in fleet.expected[name]["celery_worker_host_instances"] if one != worker]
    number = 2 * fleet.of("celery_workers")["celery_worker_instances"][worker]["concurrency"]
    tasks.send(fleet, [tasks.tracer(f"{label}-{n}", worker, 6) for n in range(number)])
    wait_for(f"{node} runs one", 10, lambda: node in nodes(fleet, label))
    assert kept_of(fleet, node) != [], "otherwise the test would not show that it is removed"
    before = changes.pids()

    arguments = changes.layer(**{name: {"celery_worker_host_instances": others}})
    done = changes.site("scale-down", *arguments)
    assert done.run.status == 0, done.run.end
    assert unit in done.of("remove") | done.of("stop")
    database.assert_ran_once(fleet, label, number, 30)
    state = units.state(fleet, *unit)
    assert (state["ActiveState"], state["UnitFileState"]) == ("inactive", "disabled")
    assert worker_files(changes, name, worker) == ""
    assert kept_of(fleet, node) == []
    assert changes.restarted(before) == {unit}


def nodes(fleet: Fleet, prefix: str) -> set[str]:
    return {run["node"] for run in database.runs(fleet, prefix)}


def worker_files(changes: Fleets, name: str, worker: str) -> str:
    """All files that a worker of a host has."""
    variables = changes.fleet.expected[name]
    script = f"""
        find {variables["celery_app_config_directory"]} {variables["celery_app_root"]}/pins \
          /etc/systemd/system /run/systemd /run/celery-fleet /var/lib/celery-fleet \
          -name 'worker-{worker}*' -o -name '{changes.app}-worker@{worker}*' 2>/dev/null
    """
    return changes.fleet.execute(name, script).output


# --- by hand ---------------------------------------------------------------------------------------


def edit(fleet: Fleet, name: str, path: str, line: str) -> None:
    """Add a line to a file, like a user with an editor."""
    fleet.must(name, f"test -e '{path}' && cat >> '{path}' && systemctl daemon-reload", f"{line}\n")


def test_a_manual_edit_that_no_process_has_read_is_undone_without_a_restart(
    changes: Fleets, fleet: Fleet
) -> None:
    files, before = changes.files(), changes.pids()
    environment = f"{fleet.of('fleet')['celery_app_config_directory']}/worker-discounts.env"
    edit(fleet, "worker1", environment, 'DEBUG="1"')
    planned = changes.plan("hand-edit-plan")
    assert planned.items != []
    assert {item.host for item in planned.items} == {"worker1"}
    assert planned.of("restart") == set()
    done = changes.site("hand-edit")
    assert done.run.status == 0, done.run.end
    assert changes.files() == files
    assert changes.restarted(before) == set()


def test_edits_that_processes_have_read_restart_them(changes: Fleets, fleet: Fleet) -> None:
    """One worker has read an edited environment, another one an edited drop-in."""
    configuration = fleet.of("fleet")["celery_app_config_directory"]
    environment, drop_in = (changes.unit(name, "discounts") for name in ("worker1", "worker2"))
    files = changes.files()
    edit(fleet, environment[0], f"{configuration}/worker-discounts.env", 'DEBUG="1"')
    drop_ins = f"/etc/systemd/system/{drop_in[1]}.d"
    edit(fleet, drop_in[0], f"{drop_ins}/10-fleet.conf", "CPUWeight=90")
    for name, unit in (environment, drop_in):
        fleet.must(name, ["systemctl", "restart", unit])
    before = changes.pids()
    planned = changes.plan("hand-read-plan")
    assert planned.of("restart") == {environment, drop_in}
    for unit, reason in (
        (environment, "environment DEBUG"),
        (drop_in, "drop-in 10-fleet.conf"),
    ):
        assert any(reason in why for item in planned.items if item.unit == unit for why in item.why)
    done = changes.site("hand-read")
    assert done.run.status == 0, done.run.end
    assert changes.files() == files
    assert changes.restarted(before) == {environment, drop_in}


@pytest.mark.usefixtures("settled")
def test_a_users_drop_in_is_noticed_and_kept(changes: Fleets, fleet: Fleet) -> None:
    """It belongs to the user; the process must run with it."""
    unit = changes.unit("worker1", "discounts")
    path = f"/etc/systemd/system/{unit[1]}.d/50-mine.conf"
    before = changes.pids()
    fleet.must(unit[0], f"cat > '{path}' && systemctl daemon-reload", "[Service]\nCPUWeight=90\n")
    try:
        planned = changes.plan("mine-plan")
        assert planned.of("restart") == {unit}
        done = changes.site("mine")
        assert done.run.status == 0, done.run.end
        assert changes.restarted(before) == {unit}
        assert fleet.must(unit[0], ["cat", path]) == "[Service]\nCPUWeight=90\n"
        assert changes.plan("mine-after").items == []
    finally:
        fleet.must(unit[0], f"rm -f '{path}' && systemctl daemon-reload")


# --- Redis restarts --------------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
def test_workers_pause_while_redis_restarts(changes: Fleets, fleet: Fleet, label: str) -> None:
    """Running tasks end, waiting ones wait, and each task runs once."""
    unit = ("redis1", f"redis@{changes.app}-broker.service")
    path = f"/etc/systemd/system/{unit[1]}.d/50-mine.conf"
    before = changes.pids()
    fleet.must(unit[0], f"cat > '{path}' && systemctl daemon-reload", "[Service]\nNice=1\n")
    try:
        tasks.send(fleet, [tasks.tracer(f"{label}-{n}", "discounts", 4) for n in range(24)])
        wait_for("they run", 10, lambda: database.runs(fleet, label))
        done = changes.site("redis-restarts")
        assert done.run.status == 0, done.run.end
        assert done.of("restart") == {unit}
        assert "pause" in done.run.text
        database.assert_ran_once(fleet, label, 24, 60)
        assert changes.restarted(before) == {unit}
    finally:
        fleet.must(unit[0], f"rm -f '{path}' && systemctl daemon-reload")


# --- restarts that are asked for -------------------------------------------------------------------


def test_restart_of_the_workers_of_one_name(changes: Fleets) -> None:
    before = changes.pids()
    run = changes.restart("restart-only", "-e", "celery_restart_workers=discounts")
    assert run.status == 0, run.end
    assert changes.restarted(before) == named(changes, "discounts")


def test_site_restarts_all_workers_if_asked(changes: Fleets) -> None:
    before = changes.pids()
    done = changes.site("site-restart-all", "-e", "celery_restart_all=true")
    assert done.run.status == 0, done.run.end
    assert done.of("restart") == all_workers(changes)
    assert changes.restarted(before) == all_workers(changes)


@pytest.mark.usefixtures("settled")
def test_site_restarts_the_workers_of_one_name(changes: Fleets) -> None:
    """The other workers differ as well, and are in the next plan."""
    arguments = changes.layer(
        **{
            name: {"celery_worker_defaults": {"heartbeat_interval": 4}}
            for name in changes.fleet.hosts("celery_workers")
        }
    )
    before = changes.pids()
    done = changes.site("site-restart-only", *arguments, "-e", "celery_restart_workers=discounts")
    assert done.run.status == 0, done.run.end
    assert changes.restarted(before) == named(changes, "discounts")
    left = changes.plan("site-restart-only-after", *arguments).of("restart")
    assert left == all_workers(changes) - named(changes, "discounts")


@pytest.mark.usefixtures("settled")
def test_second_run_at_the_same_time_is_refused(changes: Fleets) -> None:
    arguments = changes.variables(celery_app_env={"SOME_SWITCH": "at-once"})
    first = changes.start("at-once-first", arguments)
    try:
        wait_for(
            "the first one changes something",
            60,
            # This task comes after the plan, which also has tasks of this role.
            lambda: (
                "TASK [celery_fleet.core.celery_cli : Build"
                in first.transcript.read_text(errors="replace")
            ),
            pause=0.2,
        )
        second = changes.site("at-once-second", *arguments)
        assert second.run.status != 0
        assert f"{changes.app} is being changed by" in second.run.text
    finally:
        assert first.process.wait(timeout=300) == 0, first.transcript.read_text()[-3000:]
    assert changes.plan("at-once-after", *arguments).items == []


# --- what else restarts ----------------------------------------------------------------------------


def remembered(changes: Fleets, name: str) -> tuple[float, int]:
    """Return when beat last sent the probe, in Unix time, and how often in all; it saves both for the next beat."""
    text = changes.fleet.must(name, ["cat", f"/run/{changes.app}-beat/schedule.json"])
    (entry,) = [one for one in json.loads(text)["entries"] if one["name"] == "probe"]
    return datetime.fromisoformat(entry["last"]).timestamp(), entry["runs"]


def assert_beat_sent_all(changes: Fleets, name: str, since: str, before: tuple[float, int]) -> None:
    """Compare what beat has logged since a moment with what it has saved.

    This does not look at when a worker ran the task, nor at the time between two runs around the restart: a busy
    machine delays both. If the restart takes longer than the interval, beat sends what was due several times only once,
    as it should.
    """
    saved, runs_before = before
    after, runs_after = remembered(changes, name)
    sent = changes.beat_logged(name, since, SENDING)
    # The new beat continues with what the old one has saved: no run is forgotten, and none counted that was not sent.
    counted = [moment for moment in sent if saved + TOLERANCE < moment < after + TOLERANCE]
    assert len(counted) == runs_after - runs_before, (sent, saved, after)
    # None is sent before it is due.
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert min(gaps) > PROBE - TOLERANCE, gaps
    # What has become due without a beat is sent as soon as there is one, not an interval later.
    starts = changes.beat_logged(name, since, "beat: Starting...")
    assert len(starts) == 1
    last = max(moment for moment in sent if moment < starts[0])
    first = min(moment for moment in sent if moment > starts[0])
    assert first < max(last + PROBE, starts[0]) + LATE, (last, starts, first)


@pytest.mark.usefixtures("settled")
def test_beat_skips_and_doubles_no_entry_and_the_web_process_fails_no_request(
    changes: Fleets, fleet: Fleet, requests_meanwhile: Any
) -> None:
    """One run restarts both. The probe is due every three seconds."""
    name = fleet.one("celery_beat")
    web = fleet.of("celery_producers")["celery_producer_web"]
    arguments = changes.variables(
        celery_beat_loglevel="DEBUG",
        celery_producer_web={**web, "environment": {"SOME_SWITCH": "restart"}},
    )
    since = units.now(fleet, name)
    wait_for("beat sends", 10, lambda: changes.beat_logged(name, since, SENDING))
    before = remembered(changes, name)
    with requests_meanwhile() as answers:
        done = changes.site("beat-and-web", *arguments)
    assert done.run.status == 0, done.run.end
    restarted = {("control1", f"{changes.app}-{part}.service") for part in ("beat", "web")}
    assert done.of("restart") == restarted
    assert len(answers) > 20
    assert set(answers) == {200}
    tick = database.last_tick(fleet)
    wait_for("a worker runs what beat sends", 30, lambda: database.last_tick(fleet) > tick + 2)
    assert_beat_sent_all(changes, name, since, before)
