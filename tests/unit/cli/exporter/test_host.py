"""The metrics of a host: units, releases, certificates, health."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.cli.exporter import host
from celery_fleet.cli.exporter.places import MetricPlaces
from celery_fleet.cli.exporter.samples import text
from celery_fleet.common import backup_record
from celery_fleet.common.backup_record import BackupRecord
from celery_fleet.health import result
from celery_fleet.health.result import Finding
from celery_fleet.health.setup import CheckError
from celery_fleet.health.units import MonitoredUnit
from tests.support.certificates import Authority
from tests.unit.cli.exporter import documents
from tests.unit.cli.exporter.documents import labels, parsed, worker, write

MAIL = "shop-worker@mail.service"
OWN = labels(hostname="worker1", worker="mail")


def unit(name: str = MAIL, active: str = "active", up: float = 1000.0, **more: Any) -> Any:
    """Return a unit that came up some seconds ago."""
    return MonitoredUnit(name, "loaded", active, up=time.monotonic() - up, **more)


def shown(*units: MonitoredUnit) -> Any:
    def show(names: Sequence[str]) -> Mapping[str, MonitoredUnit]:
        return {one.name: one for one in units if one.name in names}

    return show


def units(directory: Path, *found: MonitoredUnit, **more: Any) -> dict[str, Any]:
    setup = documents.setup(directory, **more)
    return parsed(text(host.units(setup, MetricPlaces("shop", directory), shown(*found))))


def test_metrics_of_units(tmp_path: Path) -> None:
    beat = {"unit": "shop-beat.service", "directory": "/run/shop-beat", "interval": 5}
    found = units(
        tmp_path,
        unit(restarts=3),
        unit("shop-web.service", "failed"),
        unit("shop-beat.service", "reloading"),
        unit("foreign.service"),
        units=("shop-web.service",),
        beat=beat,
    )
    assert found["celery_fleet_unit_up"] == {
        labels(unit="shop-web.service"): 0,
        labels(unit=MAIL): 1,
        labels(unit="shop-beat.service"): 1,
    }
    assert found["celery_fleet_unit_restarts_total"][labels(unit=MAIL)] == 3


@pytest.mark.parametrize(
    ("active", "up", "age", "works"),
    [
        ("active", 1000, 5, 1),
        ("active", 1000, None, 1),  # a worker of an older version, or with metrics off
        ("active", 1000, 45, 0),  # it hangs
        ("active", 10, 45, 1),  # it has just started, and the file is from the previous process
        ("active", 1000, 5000, 1),  # metrics were switched off later
        ("deactivating", 1000, 5, 1),  # it drains
        ("deactivating", 1000, 45, 0),
        ("deactivating", 1000, None, 0),
        ("failed", 1000, None, 0),
    ],
)
def test_a_worker_is_up_if_its_unit_is_and_it_writes(
    active: str, up: float, age: float | None, works: int, tmp_path: Path
) -> None:
    if age is not None:
        write(MetricPlaces("shop", tmp_path).worker("mail"), worker(), age)
    assert units(tmp_path, unit(active=active, up=up))["celery_worker_up"] == {OWN: works}


@pytest.mark.parametrize(
    ("began", "restarts", "bad", "works"),
    [
        (170, 0, 180, 1),
        (190, 0, 180, 0),
        (190, 0, None, 1),
        (1, 1, 180, 0),  # it has failed, and may go on to do so
    ],
)
def test_a_worker_may_start_for_as_long_as_the_health_check_allows(
    began: float, restarts: int, bad: float | None, works: int, tmp_path: Path
) -> None:
    """Meanwhile a second instance serves its queues, if a run has restarted it."""
    starting = unit(active="activating", began=time.monotonic() - began, restarts=restarts)
    thresholds = {"starting_seconds": {"warning": 0, "bad": bad}}
    found = units(tmp_path, starting, thresholds=thresholds)
    assert found["celery_worker_up"] == {OWN: works}


def test_a_worker_whose_unit_systemd_does_not_know_is_not_up(tmp_path: Path) -> None:
    assert units(tmp_path)["celery_worker_up"] == {OWN: 0}


def test_a_unit_that_a_run_is_about_to_remove_is_not_reported(tmp_path: Path) -> None:
    write(tmp_path / "etc/cli.json", {"units": [], "workers": {}})
    assert units(tmp_path, unit(), units=("shop-web.service",)) == {}


def test_ends_of_units(tmp_path: Path) -> None:
    places = MetricPlaces("shop", tmp_path)
    write(places.ends(MAIL), {"format": 1, "results": {"watchdog": 1, "success": 3}})
    write(places.ends("other-worker@x.service"), {"format": 1, "results": {"watchdog": 9}})
    setup = documents.setup(tmp_path)
    found = parsed(text(host.ends(setup, places)))["celery_fleet_unit_ends_total"]
    assert found.pop(labels(unit=MAIL, result="watchdog")) == 1
    assert found.pop(labels(unit=MAIL, result="success")) == 3
    # Units that have never ended begin with 0, so that an alert notices the first end.
    others = {labels(unit=unit, result="watchdog"): 0 for unit in host.own_units(setup)}
    others.pop(labels(unit=MAIL, result="watchdog"))
    assert found == others


def test_metrics_of_hand_backs(tmp_path: Path) -> None:
    places = MetricPlaces("shop", tmp_path)
    counts = {"acknowledged": 1, "returned": 5, "begun": 2, "parked": 0, "left": 3}
    write(places.hand_backs("mail"), {"format": 1, **counts})
    write(places.hand_backs("gone"), {"format": 1, **counts})
    found = parsed(text(host.hand_backs(documents.setup(tmp_path), places)))
    own = {"hostname": "worker1", "worker": "mail"}
    # Tasks that had begun are also counted as returned.
    assert found["celery_fleet_handed_back_total"] == {
        labels(**own, outcome="returned"): 5,
        labels(**own, outcome="acknowledged"): 1,
        labels(**own, outcome="parked"): 0,
        labels(**own, outcome="left"): 3,
    }


def test_metrics_of_releases(tmp_path: Path) -> None:
    beat = {"unit": "shop-beat.service", "directory": "/run/shop-beat", "interval": 5}
    setup = documents.setup(
        tmp_path, beat=beat, units=("shop-web.service", "redis@shop-broker.service")
    )
    pins = setup.root / "pins"
    pins.mkdir(parents=True)
    for name, release in (("worker-mail", "2"), ("worker-gone", "1"), ("beat", "1"), ("web", "2")):
        (pins / name).symlink_to(f"../releases/{release}")
    found = parsed(text(host.releases(setup)))
    assert found["celery_fleet_release_info"] == {
        labels(unit=MAIL, release="2", state="pinned"): 1,
        labels(unit="shop-beat.service", release="1", state="pinned"): 1,
        labels(unit="shop-web.service", release="2", state="pinned"): 1,
    }


def test_metrics_of_disk_and_memory(tmp_path: Path) -> None:
    setup = documents.setup(tmp_path)
    found = parsed(text([*host.disk(setup), *host.memory(setup)]))
    for name in (
        "celery_fleet_filesystem_free_ratio",
        "celery_fleet_filesystem_inodes_free_ratio",
        "celery_fleet_memory_available_ratio",
    ):
        (ratio,) = found[name].values()
        assert 0 < ratio <= 1, name


def test_certificates_are_read_again_only_if_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = host.validities
    monkeypatch.setattr(host, "validities", lambda pem: asked.append(pem) or real(pem))
    authority = Authority("fleet")
    path = tmp_path / "host.crt"
    path.write_text(authority.issue(["IP:127.0.0.1"])[0])
    collect = host.Certificates([str(path)], "", tmp_path / "none.json")

    def ends() -> float:
        (moment,) = parsed(text(collect()))[
            "celery_fleet_certificate_expiry_timestamp_seconds"
        ].values()
        return float(moment)

    first = ends()
    assert first > time.time()
    assert ends() == first
    assert len(asked) == 1
    fresh = tmp_path / "new"
    fresh.write_text(authority.issue(["IP:127.0.0.2"])[0])
    os.replace(fresh, path)
    ends()
    assert len(asked) == 2
    path.write_text("nothing")
    with pytest.raises(CheckError):
        ends()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        ends()


def test_the_web_sites_certificate_is_as_the_health_check_saw_it(tmp_path: Path) -> None:
    site, checked = "/etc/letsencrypt/live/shop/fullchain.pem", tmp_path / "health.json"
    collect = host.Certificates([], site, checked)
    about = {
        site: {"days": 80.0, "until": "2026-03-01T00:00:00+00:00"},
        "/etc/celery-fleet/shop/pki/client.crt": {
            "days": 9.0,
            "until": "2026-01-01T00:00:00+00:00",
        },
    }
    assert [*collect()] == [], "there was no check yet"
    for value, expected in ((None, []), ({}, []), (about, [(1772323200.0, (site,))])):
        finding = Finding("good", "", value)
        result.write(
            checked,
            result.compose(
                app="shop",
                host="worker1",
                interval=300,
                findings={"certificates": finding},
                last={},
                checked=result.moment(),
                seconds=0.1,
                invocation="",
            ),
        )
        assert [(one.value, one.labels) for one in collect()] == expected


def health(directory: Path) -> dict[str, Any]:
    return parsed(text(host.health(MetricPlaces("shop", directory))))


def test_metrics_of_health(tmp_path: Path) -> None:
    path = MetricPlaces("shop", tmp_path).health
    made = result.compose(
        app="shop",
        host="worker1",
        interval=300,
        findings={
            "disk": Finding(result.BAD, "full"),
            "queues": Finding(result.WARNING, "long"),
            "clock": Finding(result.GOOD, "right", {"offset_seconds": -0.25}),
            "canary": Finding(
                result.WARNING,
                "slow",
                {
                    "mail@worker1": {"state": "answered", "seconds": 0.5},
                    "bulk@worker2": {"state": "unknown", "seconds": None},
                },
            ),
        },
        last={},
        checked="2026-01-02T03:00:00.120+00:00",
        seconds=1,
        invocation="",
    )
    write(path, made)
    found = health(tmp_path)
    assert [*found["celery_fleet_health_state"].values()] == [2]
    assert found["celery_fleet_health_check_state"] == {
        labels(check="disk"): 2,
        labels(check="queues"): 1,
        labels(check="clock"): 0,
        labels(check="canary"): 1,
    }
    lost = labels(hostname="worker2", worker="bulk")
    assert found["celery_fleet_canary_ok"] == {OWN: 1, lost: 0}
    assert found["celery_fleet_canary_seconds"] == {OWN: 0.5}
    assert [*found["celery_fleet_health_checked_timestamp_seconds"].values()] == [1767322800.12]
    assert [*found["celery_fleet_clock_offset_seconds"].values()] == [-0.25]
    made["checks"]["clock"]["value"] = None
    write(path, made)
    assert "celery_fleet_clock_offset_seconds" not in health(tmp_path)


def test_a_host_that_was_never_checked_or_changed(tmp_path: Path) -> None:
    assert health(tmp_path) == {}
    assert [*host.change(MetricPlaces("shop", tmp_path))] == []


def test_the_last_good_backup(tmp_path: Path) -> None:
    places = MetricPlaces("shop", tmp_path)
    name = "celery_fleet_redis_last_backup_timestamp_seconds"
    write(places.backup_timer, "", age=600)
    ((enabled, moment, _),) = host.backup(places)
    assert enabled == "celery_fleet_redis_backup_enabled_timestamp_seconds"
    assert isinstance(moment, float)
    assert 600 <= time.time() - moment < 660
    places.backup.parent.mkdir(parents=True)
    failed = BackupRecord(1767326400.0, error="full")
    backup_record.write(places.backup, failed)
    assert {one.name: one.value for one in host.backup(places)}[name] == 0
    backup_record.write(places.backup, replace(failed, succeeded=1767322800.0, bytes=100))
    assert {one.name: one.value for one in host.backup(places)} == {
        name: 1767322800.0,
        "celery_fleet_redis_last_backup_size_bytes": 100,
    }
    places.backup.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        [*host.backup(places)]


def test_the_last_run_that_changed_something(tmp_path: Path) -> None:
    places = MetricPlaces("shop", tmp_path)
    write(places.changed, "", age=600)
    ((_, moment, _),) = host.change(places)
    assert isinstance(moment, float)
    assert 600 <= time.time() - moment < 660
