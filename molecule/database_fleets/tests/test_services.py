"""Both applications are up, with health checks and firewall. Deploys were quick, and a second run changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import documented
import means
import pytest
from support import fleets, plays, units

if TYPE_CHECKING:
    from support.inventory import Fleet

# Seconds for one fleet onto a prepared host, while another scenario runs. `make bench` measures it.
LIMIT = 600


def test_all_services_are_up(fleet: Fleet) -> None:
    assert units.down(fleet) == []


def test_status_reports_that_all_is_well(fleet: Fleet) -> None:
    for host in fleet.hosts("fleet"):
        found = means.ask(fleet, host, "status")
        assert (found["app"], found["ok"], found["problems"]) == (fleets.app_of(fleet), True, [])


@pytest.mark.parametrize("name", fleets.NAMES)
def test_deploy_onto_prepared_hosts_is_quick(name: str) -> None:
    record = fleets.load(name).state / "deploys" / f"{name}.json"
    assert json.loads(record.read_text())["seconds"] <= LIMIT


def test_second_run_changes_nothing(fleet: Fleet, workshop: fleets.Workshop) -> None:
    """This also holds for the first application, after the other was deployed."""
    before = fleets.Look.at(*map(fleets.load, fleets.NAMES))
    run = workshop.site(fleet, "second-run")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    before.unchanged()


def test_a_dry_run_of_a_deployed_fleet_finds_nothing(
    fleet: Fleet, workshop: fleets.Workshop
) -> None:
    run = workshop.site(fleet, "dry-run", "--check")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)


def test_each_host_has_a_health_timer(fleet: Fleet) -> None:
    for host in fleet.hosts("fleet"):
        found = units.state(fleet, host, f"{fleets.app_of(fleet)}-health.timer")
        assert (found["ActiveState"], found["UnitFileState"]) == ("active", "enabled"), host


def test_each_host_with_ports_to_close_has_a_firewall(fleet: Fleet) -> None:
    """Redis's ports, and those of a web process that listens on TCP."""
    app, guarded = fleets.app_of(fleet), set(fleet.hosts("redis"))
    if app == "processing":
        guarded |= set(fleet.hosts("celery_producers"))
    for host in fleet.hosts("fleet"):
        found = units.state(fleet, host, f"{app}-firewall.service")
        assert (found["ActiveState"] == "active") == (host in guarded), host


def test_one_worker_for_each_queue_with_its_documented_concurrency(market: Fleet) -> None:
    """The workers report this themselves, and each has that many processes."""
    found = means.ask(market, market.one("celery_workers"), "status")["workers"]
    assert {
        node.partition("@")[0]: (worker["queues"], worker["processes"])
        for node, worker in found.items()
    } == {queue: ([queue], number) for queue, number in documented.CONCURRENCIES.items()}
    for host, unit in fleets.worker_units(market):
        main = units.state(market, host, unit)["MainPID"]
        children = market.must(host, ["pgrep", "--parent", main]).split()
        queue = unit.partition("@")[2].removesuffix(".service")
        assert len(children) == documented.CONCURRENCIES[queue], unit


def test_a_message_of_a_long_task_is_not_given_to_another_worker(processing: Fleet) -> None:
    """A task may take the documented hour, because its worker renews its lease."""
    variables = processing.of("celery_workers")
    found = float(variables["celery_app_visibility_timeout"])
    assert variables["celery_app_delivery"] == "at_least_once"
    assert variables["celery_worker_lease"] is True
    assert 15 <= found < documented.TIME_LIMIT


@pytest.mark.stage(8)
def test_everything_is_up_after_all_tests(fleet: Fleet) -> None:
    assert units.down(fleet) == []
    for host in fleet.hosts("fleet"):
        # The last check may have run while a test had stopped something.
        found = means.check(fleet, host)
        assert found["state"] != "bad", found
        failed = fleet.must(host, ["systemctl", "list-units", "--failed", "--no-legend", "--plain"])
        assert [line for line in failed.splitlines() if fleets.app_of(fleet) in line] == []


@pytest.mark.stage(8)
def test_no_secret_in_any_output() -> None:
    """Every run has -vvv and --diff, except deploys, whose plans are kept as JSON."""
    fleet = fleets.load(fleets.NAMES[0])
    written = [*plays.transcripts(fleet).glob("*.log"), *(fleet.state / "deploys").glob("*.json")]
    assert len(written) > 15
    texts = {path.name: path.read_text(errors="replace") for path in written}
    found = {
        (title, name, what)
        for name in fleets.NAMES
        for what, form in fleets.hidden(name)
        for title, text in texts.items()
        if form in text
    }
    assert found == set()
