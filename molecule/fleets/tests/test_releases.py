"""One application gets a new release: its commands run as often as they should, and the others don't notice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from command_logs import LOG
from support import database, fleets

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(5)


def ran(fleet: Fleet) -> Counter[tuple[str, str, str]]:
    """Return host, command and release of each run of a command, from the names of the kept logs."""
    found: Counter[tuple[str, str, str]] = Counter()
    for host in fleet.hosts("fleet"):
        listed = fleet.execute(
            host, ["ls", f"/var/log/celery-fleet/{fleets.app_of(fleet)}/commands"]
        )
        for entry in map(LOG.fullmatch, listed.output.split()):
            assert entry, listed.output
            found[host, entry["name"], entry["release"]] += 1
    return found


def release(fleet: Fleet) -> str:
    """Return the current release, which must be the same on all hosts that have one."""
    script = f"readlink --canonicalize-existing /opt/{fleets.app_of(fleet)}/current"
    found = {
        fleet.must(host, script).strip().rpartition("/")[2]
        for host in fleet.hosts("celery_workers") + fleet.hosts("celery_producers")
    }
    assert len(found) == 1, found
    return found.pop()


def test_redeploy_of_one_runs_its_commands_and_leaves_the_others_alone(
    shop: Fleet, flexi: Fleet, flash: Fleet, workshop: fleets.Workshop
) -> None:
    with_release = {
        *shop.hosts("celery_workers"),
        *shop.hosts("celery_beat"),
        *shop.hosts("celery_producers"),
    }
    first, before = release(shop), ran(shop)
    commands = {one["name"]: one for one in shop.of("fleet")["celery_release_commands"]}
    assert set(commands) == {"migrate", "collectstatic", "demo-data"}

    # The demo's data has changed since it was loaded; loading it again would undo that.
    database.execute(shop, "UPDATE catalog_product SET name = 'Renamed' WHERE sku = 'DEMO-2'")
    look, own = fleets.Look.at(flexi, flash), fleets.pids(shop)
    source = workshop.source(
        shop, aiecommerce__catalog__pipeline=("LEAST_STOCK = 3", "LEAST_STOCK = 4")
    )
    run = workshop.site(shop, "redeploy", workshop.variables(celery_app_source=source))
    assert run.status == 0, run.end
    look.unchanged()
    second = release(shop)
    assert second != first
    changed = {unit for (host, unit), pid in fleets.pids(shop).items() if own[host, unit] != pid}
    assert {unit.partition("@")[0] for unit in changed} == {
        "aiecommerce-worker",
        "aiecommerce-beat.service",
        "aiecommerce-web.service",
    }

    after = ran(shop)
    for version in (first, second):
        runs = {key[:2]: number for key, number in after.items() if key[2] == version}
        assert Counter(name for _, name in runs) == {
            "migrate": 1,
            "collectstatic": len(with_release),
            **({"demo-data": 1} if version == first else {}),
        }
        assert set(runs.values()) == {1}, runs
        assert {host for host, name in runs if name == "collectstatic"} == with_release
    assert {key for key in after if key[2] == first} == {key for key in before if key[2] == first}
    text = "SELECT name FROM catalog_product WHERE sku = 'DEMO-2'"
    assert database.query(shop, text) == [{"name": "Renamed"}]
    fleets.run(shop, "run_ml_eligibility_update")

    workshop.settle(shop, "redeploy-back")
    assert release(shop) == first
    assert {key for key in ran(shop) if key[1] == "demo-data"} == {
        key for key in after if key[1] == "demo-data"
    }
    look.unchanged()
