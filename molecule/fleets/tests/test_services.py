"""All three applications are up, each deploy was quick, and a second run of any of them changes nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from support import fleets, plays, units
from support.inventory import ROOT

if TYPE_CHECKING:
    from support.inventory import Fleet

# Seconds for one fleet onto a prepared host, while another scenario runs. `make bench` measures it.
LIMIT = 480


def test_all_services_are_up(fleet: Fleet) -> None:
    assert units.down(fleet) == []


def test_status_reports_that_all_is_well(fleet: Fleet) -> None:
    for host in fleet.hosts("fleet"):
        found = json.loads(fleets.must(fleet, host, "--format json status").output)
        assert (found["app"], found["ok"], found["problems"]) == (fleets.app_of(fleet), True, [])


def locked_version(fleet: Fleet) -> str:
    """Return the version of Celery in the requirements of an application."""
    source = fleet.of("fleet")["celery_app_source"]
    path = ROOT / source["path"] / source.get("requirements", "requirements.txt")
    return re.findall(r"^celery==(\S+)", path.read_text(), re.MULTILINE)[0]


def test_workers_have_the_celery_of_their_requirements(fleet: Fleet) -> None:
    """The workers report it themselves; Flash Promos has an older minor than the others."""
    words = "exec --as operator -- celery inspect report"
    said = fleets.must(fleet, fleet.one("celery_workers"), words).output
    versions = re.findall(r"software -> celery:(\S+)", said)
    assert versions == [locked_version(fleet)] * len(fleets.nodes(fleet))
    assert versions[0].startswith("5.5.") == (fleets.app_of(fleet) == "flash_promos")


@pytest.mark.parametrize("name", fleets.NAMES)
def test_deploy_onto_prepared_hosts_is_quick(name: str) -> None:
    record = fleets.load(name).state / "deploys" / f"{name}.json"
    assert json.loads(record.read_text())["seconds"] <= LIMIT


@pytest.mark.parametrize("name", fleets.NAMES)
def test_the_plan_of_a_deploy_names_no_other_application(name: str) -> None:
    plan = json.loads((fleets.load(name).state / "deploys" / f"{name}.plan.json").read_text())
    assert len(plan["items"]) > 20
    others = {other for other in fleets.NAMES if other != name}
    found = [item for item in plan["items"] if any(other in json.dumps(item) for other in others)]
    assert found == []


def test_second_run_changes_nothing(fleet: Fleet, workshop: fleets.Workshop) -> None:
    """This also holds for the first application, after the others were deployed."""
    before = fleets.Look.at(*map(fleets.load, fleets.NAMES))
    run = workshop.site(fleet, "second-run")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    before.unchanged()


@pytest.mark.stage(8)
def test_everything_is_up_after_all_tests(fleet: Fleet) -> None:
    assert units.down(fleet) == []


@pytest.mark.stage(8)
def test_no_secret_in_any_output() -> None:
    """Every run has -vvv and --diff, except deploys, whose plans are kept as JSON."""
    fleet = fleets.load(fleets.NAMES[0])
    written = [*plays.transcripts(fleet).glob("*.log"), *(fleet.state / "deploys").glob("*.json")]
    assert len(written) > 20
    texts = {path.name: path.read_text(errors="replace") for path in written}
    found = {
        (title, name, what)
        for name in fleets.NAMES
        for what, form in fleets.hidden(name)
        for title, text in texts.items()
        if form in text
    }
    assert found == set()
