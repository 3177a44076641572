"""Each check separately, on real files and processes."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    environment,
    health,
    settings,
)

from celery_fleet.common import systemctl
from celery_fleet.health import canary as health_canary
from celery_fleet.health import certificates, checks, host, in_release
from celery_fleet.health import database as health_database
from celery_fleet.health import fleet as health_fleet
from celery_fleet.health import program as runner
from celery_fleet.health import setup as health_setup
from celery_fleet.health import units as health_units
from celery_fleet.health.result import BAD, GOOD, WARNING, Finding
from celery_fleet.health.setup import CheckError, Setup, Worker
from celery_fleet.health.units import MonitoredUnit
from celery_fleet.ops import databases
from tests.facts import facts
from tests.support.certificates import Authority

SOURCE = Path(__file__).parents[4] / "src"


def setup(directory: Path, **more: Any) -> Setup:
    given: dict[str, Any] = {
        "app": "shop",
        "host": "worker1",
        "user": getpass.getuser(),
        "interval": 300,
        "checks": (),
        "thresholds": health.merged(more.pop("thresholds", {})),
        "directory": directory,
        "root": directory / "opt",
        "runtime": SOURCE,
    }
    return Setup(**{**given, **more})


# --- thresholds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "state"),
    [(9, False, GOOD), (10, False, WARNING), (20, False, BAD), (99, False, BAD)],
)
def test_a_value_at_its_threshold_is_worse(value: float, low: bool, state: str) -> None:
    assert health_setup.state_of(value, {"warning": 10, "bad": 20}, low=low) == state


@pytest.mark.parametrize(("value", "state"), [(21, GOOD), (20, WARNING), (10, BAD), (0, BAD)])
def test_a_lower_value_may_be_worse(value: float, state: str) -> None:
    assert health_setup.state_of(value, {"warning": 20, "bad": 10}, low=True) == state


def test_a_threshold_of_null_is_never_reached() -> None:
    assert health_setup.state_of(1e9, {"warning": None, "bad": None}) == GOOD
    assert health_setup.state_of(1e9, {"warning": None, "bad": 5}) == BAD


# --- the host ----------------------------------------------------------------------------------------


def test_the_disk_is_checked(tmp_path: Path) -> None:
    found = host.disk(
        setup(
            tmp_path,
            paths=(str(tmp_path), str(tmp_path / "missing"), "/"),
            thresholds={
                "disk_free_percent": {"warning": 0, "bad": 0},
                "disk_free_mb": {"warning": 0, "bad": 0},
            },
        )
    )
    assert found.state == GOOD
    first = found.value[str(tmp_path)]
    system = os.statvfs(tmp_path)
    assert abs(first["free_bytes"] - system.f_bavail * system.f_frsize) < 1e9
    assert 0 <= first["free_percent"] <= 100
    assert str(tmp_path / "missing") not in found.value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("disk_free_percent", "% free"),
        ("disk_free_mb", "% free"),
        ("inodes_free_percent", "inodes"),
    ],
)
def test_a_full_disk_is_bad(tmp_path: Path, name: str, words: str) -> None:
    bounds = {"warning": 1e12, "bad": 1e12}
    found = host.disk(setup(tmp_path, paths=(str(tmp_path),), thresholds={name: bounds}))
    assert found.state == BAD
    assert words in found.text


MEMINFO = """MemTotal:        1000 kB
MemFree:           10 kB
MemAvailable:      {available} kB
SwapTotal:         {total} kB
SwapFree:          {free} kB
HugePages_Total:       0
"""


@pytest.mark.parametrize(
    ("available", "total", "free", "state", "text"),
    [
        (500, 0, 0, GOOD, "50 % available (512.0 kB)"),
        (90, 0, 0, WARNING, "9 % available"),
        (20, 100, 100, BAD, "2 % available"),
        (500, 100, 10, WARNING, "90 % of swap used"),
    ],
)
def test_the_memory_is_checked(
    tmp_path: Path, available: int, total: int, free: int, state: str, text: str
) -> None:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO.format(available=available, total=total, free=free))
    found = host.memory(setup(tmp_path), path)
    assert (found.state, text.split(" (")[0] in found.text) == (state, True), found
    assert found.value["available_bytes"] == available * 1024


def test_memory_of_this_machine(tmp_path: Path) -> None:
    assert 0 < host.memory(setup(tmp_path)).value["available_percent"] <= 100


def test_the_cpu_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.cpu(setup(tmp_path)).value["cores"] >= 1
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 10.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    found = host.cpu(setup(tmp_path))
    assert found == Finding(
        WARNING,
        "load 10.00 on 2 cores over five minutes",
        {"load5": 10.0, "cores": 2, "per_core": 5.0},
    )


@pytest.mark.parametrize(
    ("overcommit", "waiting", "state", "words"),
    [
        (0, 4096, GOOD, "vm.overcommit_memory = 0, net.core.somaxconn = 4096"),
        (1, 511, GOOD, "vm.overcommit_memory = 1, net.core.somaxconn = 511"),
        (2, 4096, WARNING, "vm.overcommit_memory = 2: Redis may fail to save"),
        (0, 128, WARNING, "net.core.somaxconn = 128: connections to Redis may be refused"),
    ],
)
def test_the_kernels_settings_suit_redis(
    tmp_path: Path, overcommit: int, waiting: int, state: str, words: str
) -> None:
    for name, number in (("vm/overcommit_memory", overcommit), ("net/core/somaxconn", waiting)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"{number}\n")
    found = host.kernel(setup(tmp_path), tmp_path)
    assert (found.state, found.text) == (state, words)


def test_the_size_of_logs_is_checked(tmp_path: Path) -> None:
    (tmp_path / "log/deep").mkdir(parents=True)
    (tmp_path / "log/a.log").write_bytes(b"x" * 1_500_000)
    (tmp_path / "log/deep/b.log").write_bytes(b"x" * 600_000)
    # A link that leads out of the directory does not count.
    (tmp_path / "log/link").symlink_to("/usr")
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "system.journal").write_bytes(b"x" * 1000)
    logs = (str(tmp_path / "log"), str(tmp_path / "missing"))
    bounds = {"logs_mb": {"warning": 2, "bad": 3}}
    found = host.logs(setup(tmp_path, logs=logs, thresholds=bounds), [journal])
    assert found.state == WARNING
    assert 2_100_000 <= found.value["bytes"][logs[0]] < 2_200_000
    assert (found.value["journal_bytes"], "journal 1 kB" in found.text) == (1000, True)


# --- certificates ------------------------------------------------------------------------------------


def test_only_the_authority_in_use_counts(tmp_path: Path) -> None:
    old, new = Authority("old", days=3), Authority("new")
    middle = Authority("middle", above=new, days=20)
    paths = (tmp_path / "ca.crt", tmp_path / "host.crt")
    paths[0].write_text(old.pem + new.pem)

    def state(chain: str) -> str:
        paths[1].write_text(chain)
        found = certificates.certificates(setup(tmp_path, certificates=tuple(map(str, paths))))
        return f"{found.state}: {found.text}"

    assert state(new.issue(["DNS:h"])[0] + new.pem).startswith(GOOD)
    assert "ca.crt is valid for 3 days" in state(old.issue(["DNS:h"])[0])
    # Intermediate certificates count, too.
    said = state(middle.issue(["DNS:h"])[0] + middle.pem)
    assert said.startswith(WARNING)
    assert "host.crt is valid for 20 days" in said


@pytest.mark.parametrize(
    ("days", "state", "text"),
    [
        (100, GOOD, "host.crt is valid for 100 days"),
        (20, WARNING, "host.crt is valid for 20 days"),
        (3, BAD, "host.crt is valid for 3 days"),
        (-2, BAD, "host.crt expired"),
        # After 2049 the time has another format.
        (20000, GOOD, "host.crt is valid for 20000 days"),
    ],
)
def test_certificates_that_expire_are_reported(
    tmp_path: Path, days: int, state: str, text: str
) -> None:
    authority = Authority("fleet")
    (tmp_path / "ca.crt").write_text(authority.pem)
    # An expired certificate can't be made, but the clock can be moved.
    lasts = max(days, 1)
    (tmp_path / "host.crt").write_text("a line before\n" + authority.issue(["DNS:h"], lasts)[0])
    paths = (str(tmp_path / "ca.crt"), str(tmp_path / "host.crt"))
    found = certificates.certificates(
        setup(tmp_path, certificates=paths),
        datetime.now(UTC) + timedelta(days=lasts - days, hours=-1),
    )
    assert (found.state, text in found.text) == (state, True), found
    assert found.value[paths[1]]["days"] == pytest.approx(days, abs=0.2)


@pytest.mark.parametrize(
    ("days", "state", "text"),
    [
        (80, GOOD, "{path} is valid for 80 days"),
        (20, WARNING, "{path} is valid for 20 days (Celery Fleet does not renew it: "),
        (3, BAD, "{path} is valid for 3 days (Celery Fleet does not renew it: "),
        (-2, BAD, "{path} expired"),
    ],
)
def test_the_web_sites_own_certificate_is_watched(
    tmp_path: Path, days: int, state: str, text: str
) -> None:
    fleet, public = Authority("fleet"), Authority("public")
    middle = Authority("middle", above=public, days=100)
    path = tmp_path / "fullchain.pem"
    (tmp_path / "host.crt").write_text(fleet.issue(["DNS:h"], days=300)[0])
    lasts = max(days, 1)
    path.write_text(middle.issue(["DNS:shop.example.org"], lasts)[0] + middle.pem)
    own = (str(tmp_path / "host.crt"),)
    found = certificates.certificates(
        setup(tmp_path, certificates=own, site_certificate=str(path)),
        datetime.now(UTC) + timedelta(days=lasts - days, hours=-1),
    )
    assert (found.state, text.format(path=path) in found.text) == (state, True), found
    assert "run site.yml" not in found.text
    assert found.value[str(path)]["days"] == pytest.approx(days, abs=0.2)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"-----BEGIN CERTIFICATE-----\n-----"])
def test_a_web_site_without_a_certificate_is_bad_and_the_others_are_watched(
    tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "host.crt").write_text(Authority("fleet").issue(["DNS:h"], days=300)[0])
    path = tmp_path / "fullchain.pem"
    if content is not None:
        path.write_bytes(content)
    own = (str(tmp_path / "host.crt"),)
    found = certificates.certificates(setup(tmp_path, certificates=own, site_certificate=str(path)))
    assert (found.state, [*found.value]) == (BAD, [*own])
    assert found.text.startswith(str(path))
    assert found.text.endswith("put one there, then systemctl reload nginx")
    assert "run site.yml" not in found.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----",
    ],
)
def test_a_malformed_certificate_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "host.crt"
    path.write_text(text)
    with pytest.raises(CheckError, match=rf"^{path} is not a certificate .*; run site\.yml$"):
        certificates.validities(str(path))


# --- units -------------------------------------------------------------------------------------------

SHOW = """Id=shop-worker@mail.service
LoadState=loaded
ActiveState=activating
StatusText=waiting: broker redis1:6379: Connection refused
NRestarts=1
InactiveExitTimestampMonotonic=5000000
ActiveEnterTimestampMonotonic=0

Id=nginx.service
LoadState=not-found
ActiveState=inactive
"""


def test_systemds_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemctl, "properties", lambda *_, **__: systemctl.parse(SHOW))
    found = health_units.show(["shop-worker@mail.service", "nginx.service"])
    worker = found["shop-worker@mail.service"]
    assert (worker.active, worker.restarts, worker.began) == ("activating", 1, 5.0)
    assert worker.status.endswith("Connection refused")
    assert found["nginx.service"].load == "not-found"


PATIENCE: dict[str, float | None] = {"warning": 0, "bad": 180}


@pytest.mark.parametrize(
    ("unit", "state", "text"),
    [
        (None, BAD, "a is missing; run site.yml"),
        (
            MonitoredUnit("a.service", "not-found", "inactive"),
            BAD,
            "a is missing; run site.yml",
        ),
        (MonitoredUnit("a.service", "loaded", "active"), GOOD, ""),
        (MonitoredUnit("a.service", "loaded", "reloading"), GOOD, ""),
        (MonitoredUnit("a.service", "loaded", "inactive"), BAD, "a is inactive"),
        (MonitoredUnit("a.service", "loaded", "failed"), BAD, "a is failed"),
        (MonitoredUnit("a.service", "loaded", "deactivating"), WARNING, "a is stopping"),
        # A run is restarting it.
        (
            MonitoredUnit("a.service", "loaded", "activating", "loading", 0, 990.0),
            WARNING,
            "a has been starting for 10 s (loading)",
        ),
        # Its broker has been away for a long time.
        (
            MonitoredUnit("a.service", "loaded", "activating", "", 0, 800.0),
            BAD,
            "a has been starting for 200 s",
        ),
        # In a crash loop the start is never more than some seconds ago.
        (
            MonitoredUnit("a.service", "loaded", "activating", "", 3, 999.0),
            BAD,
            "a keeps crashing: restarted 3 times",
        ),
    ],
)
def test_the_state_of_a_unit(unit: MonitoredUnit | None, state: str, text: str) -> None:
    assert health_units.state_of(unit, "a.service", PATIENCE, 1000.0) == (state, text)


def shown(**states: str) -> health_units.Ask:
    """Return a fake systemd with these units; names are given without prefix and suffix."""

    def show(names: Sequence[str]) -> dict[str, MonitoredUnit]:
        found = {}
        for name in names:
            active = states.get(name.removesuffix(".service").rpartition("-")[2].rpartition("@")[2])
            if active is not None:
                found[name] = MonitoredUnit(name, "loaded", active, "", 0, time.monotonic(), 1.0)
        return found

    return show


def test_all_units_are_checked(tmp_path: Path) -> None:
    names = ("shop-web.service", "shop-flower.service")
    one = setup(tmp_path, units=names)
    found = health_fleet.units(one, shown(web="active", flower="active"))
    assert (found.state, found.text) == (GOOD, "2 up")
    found = health_fleet.units(one, shown(web="failed", flower="active"))
    assert (found.state, found.text) == (BAD, "shop-web is failed")
    # A run is about to remove the web process: the file that it writes first does not have it any more.
    (tmp_path / "cli.json").write_text(json.dumps({"units": [names[1]], "workers": {}}))
    assert health_fleet.units(one, shown(flower="active")) == Finding(
        GOOD, "1 up", {names[1]: "active"}
    )


# --- beat --------------------------------------------------------------------------------------------


@pytest.fixture
def beat(tmp_path: Path) -> Setup:
    about = {"unit": "shop-beat.service", "directory": str(tmp_path / "run"), "interval": 5}
    (tmp_path / "run").mkdir()
    return setup(tmp_path, beat=about)


def tick(setup: Setup, ago: float) -> None:
    assert setup.beat is not None
    path = Path(setup.beat["directory"]) / "tick"
    path.touch()
    os.utime(path, (time.time() - ago,) * 2)


@pytest.mark.parametrize(
    ("ago", "state"), [(0, GOOD), (34, GOOD), (36, WARNING), (124, WARNING), (126, BAD)]
)
def test_beat_by_its_last_tick(beat: Setup, ago: float, state: str) -> None:
    tick(beat, ago)
    found = health_fleet.beat(beat, shown(beat="active"))
    assert (found.state, found.text) == (state, f"last tick {ago} s ago")


def test_a_beat_that_is_down_or_starting(beat: Setup) -> None:
    tick(beat, 0)
    assert health_fleet.beat(beat, shown(beat="inactive")).text == "shop-beat is inactive"
    assert health_fleet.beat(beat, shown(beat="activating")).state == WARNING
    assert health_fleet.beat(beat, shown()).state == BAD


def test_a_beat_that_never_ticked(beat: Setup) -> None:
    def show(up: float) -> health_units.Ask:
        unit = MonitoredUnit("shop-beat.service", "loaded", "active", up=time.monotonic() - up)
        return lambda names: {unit.name: unit}

    assert health_fleet.beat(beat, show(2)).state == GOOD
    found = health_fleet.beat(beat, show(500))
    assert (found.state, found.text) == (BAD, "last tick none since its start 500 s ago")


def test_a_tick_that_is_a_link_is_ignored(beat: Setup) -> None:
    assert beat.beat is not None
    (Path(beat.beat["directory"]) / "tick").symlink_to("/dev/null")
    with pytest.raises(CheckError, match="tick is not a file"):
        health_fleet.beat(beat, shown(beat="active"))


# --- workers -----------------------------------------------------------------------------------------

WORKERS = {
    "mail@worker1": Worker("shop-worker@mail.service", "worker1"),
    "bulk@worker1": Worker("shop-worker@bulk.service", "worker1"),
    "slow@worker2": Worker("shop-worker@slow.service", "worker2", "solo"),
}


def answering(*nodes: str) -> Any:
    return lambda setup, asked: [node for node in asked if node in nodes]


@pytest.mark.parametrize(
    ("fleet", "units", "nodes", "state", "text"),
    [
        (False, {"mail": "active", "bulk": "active"}, [*WORKERS], GOOD, "2 of 2 online"),
        (True, {"mail": "active", "bulk": "active"}, [*WORKERS], GOOD, "3 of 3 online"),
        (
            False,
            {"mail": "active", "bulk": "inactive"},
            [*WORKERS],
            BAD,
            "shop-worker@bulk is inactive",
        ),
        (
            False,
            {"mail": "active", "bulk": "deactivating"},
            [*WORKERS],
            WARNING,
            "shop-worker@bulk is stopping",
        ),
        (
            False,
            {"mail": "active", "bulk": "active"},
            ["mail@worker1"],
            BAD,
            "bulk@worker1 does not answer",
        ),
        (
            True,
            {"mail": "active", "bulk": "active"},
            ["mail@worker1", "bulk@worker1"],
            WARNING,
            "slow@worker2 does not answer; its solo pool may be running a task",
        ),
    ],
)
def test_the_state_of_workers(
    tmp_path: Path, fleet: bool, units: dict[str, str], nodes: list[str], state: str, text: str
) -> None:
    one = setup(tmp_path, workers=WORKERS, fleet=fleet)
    found = health_fleet.workers(one, shown(**units), answering(*nodes), 0.01)
    assert (found.state, found.text) == (state, text)


def test_a_worker_that_is_just_restarting_is_asked_again(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def ask(setup: Setup, nodes: Sequence[str]) -> list[str]:
        asked.append(list(nodes))
        return list(nodes) if len(asked) > 1 else ["mail@worker1"]

    one = setup(tmp_path, workers=WORKERS)
    found = health_fleet.workers(one, shown(mail="active", bulk="active"), ask, 0.01)
    assert found.state == GOOD
    assert asked == [["mail@worker1", "bulk@worker1"], ["bulk@worker1"]]


def test_workers_that_can_not_be_asked_are_not_called_missing(tmp_path: Path) -> None:
    def ask(setup: Setup, nodes: Sequence[str]) -> list[str]:
        raise CheckError("the broker can't be asked")

    one = setup(tmp_path, workers=WORKERS)
    found = health_fleet.workers(one, shown(mail="active", bulk="active"), ask)
    assert (found.state, found.value["missing"]) == (WARNING, None)
    assert found.text == "the workers can't be asked: the broker can't be asked"


def test_a_worker_that_left_the_inventory_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "cli.json").write_text(json.dumps({"units": [], "workers": {"mail@worker1": []}}))
    found = health_fleet.workers(
        setup(tmp_path, workers=WORKERS, fleet=True),
        shown(mail="active"),
        answering("mail@worker1"),
    )
    assert (found.state, found.text) == (GOOD, "1 of 1 online")


# --- canaries ----------------------------------------------------------------------------------------


def reported(**states: tuple[str, float | None]) -> Any:
    """Return a replacement for the probe, with state and seconds of each worker in `WORKERS`."""
    nodes = {
        node: dict(
            zip(
                ("state", "seconds"),
                states.get(node.split("@")[0], ("answered", 0.02)),
                strict=True,
            )
        )
        for node in WORKERS
    }
    return lambda setup, asked: {node: nodes[node] for node in asked}


@pytest.mark.parametrize(
    ("mail", "slow", "state", "text"),
    [
        (
            ("answered", 0.5),
            ("answered", 0.02),
            GOOD,
            "3 of 3 returned, the slowest after 0.50 s",
        ),
        (("answered", 5.0), ("answered", 0.02), WARNING, "mail@worker1 took 5.0 s"),
        (("answered", 15.0), ("answered", 0.02), BAD, "mail@worker1 took 15.0 s"),
        (("no answer", None), ("busy", None), WARNING, "mail@worker1 did not return its test task"),
        (("failed", 0.02), ("busy", None), WARNING, "mail@worker1 did not run its test task"),
        # A solo pool can't say that it runs a task.
        (
            ("draining", None),
            ("no answer", None),
            GOOD,
            "1 of 3 returned, the slowest after 0.02 s",
        ),
    ],
)
def test_the_state_of_canaries(
    tmp_path: Path,
    mail: tuple[str, float | None],
    slow: tuple[str, float | None],
    state: str,
    text: str,
) -> None:
    one = setup(tmp_path, workers=WORKERS, fleet=True)
    found = health_canary.canary(one, reported(mail=mail, slow=slow))
    assert (found.state, found.text) == (state, text)
    assert found.value["mail@worker1"] == {"state": mail[0], "seconds": mail[1]}


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"nodes": {}, "errors": ["the broker refuses"]}, "the broker refuses"),
        (
            {"nodes": {"mail@worker1": {"state": "unknown"}}, "errors": ["not finished"]},
            "not finished",
        ),
    ],
)
def test_canaries_that_were_not_sent_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Any, message: str
) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "operator.json").write_text("{}")
    monkeypatch.setattr(health_canary, "run_module", lambda *_: report)
    one = setup(tmp_path, workers=WORKERS, fleet=True)
    assert runner.guarded(lambda: health_canary.canary(one)) == Finding(BAD, message)


# --- databases ---------------------------------------------------------------------------------------


def test_environment_files_are_read_as_written(tmp_path: Path) -> None:
    given = {
        "DATABASE_URL": "postgresql://u:p%40ss@db/x?sslmode=require",
        "ODD": 'a "b" $c `d` \\ e',
        "KEY": '-----BEGIN-----\nA="B"\n-----END-----',
        "EMPTY": "",
        "N": "1",
    }
    assert health_setup.environment(environment.environment_file(given)) == given
    (tmp_path / "credentials").mkdir()
    (tmp_path / "exec.env").write_text(
        environment.environment_file({"A": "redis://x", "PGSSLMODE": "a"})
    )
    (tmp_path / "credentials/exec.env").write_text(environment.environment_file(given))
    one = setup(tmp_path)
    assert one.databases() == {"DATABASE_URL": given["DATABASE_URL"]}
    assert {"p%40ss", "p@ss"} <= one.secrets()


def release(directory: Path, name: str = "current") -> None:
    """Make a release whose Python is that of the tests."""
    path = directory / "opt/releases/r1/venv/bin"
    path.mkdir(parents=True, exist_ok=True)
    (path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (path / "python").chmod(0o755)
    link = directory / "opt" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(directory / "opt/releases/r1")


def with_environment(directory: Path, variables: Mapping[str, str]) -> Setup:
    (directory / "credentials").mkdir()
    (directory / "credentials/exec.env").write_text(environment.environment_file(dict(variables)))
    return setup(directory)


def with_url(directory: Path, url: str) -> Setup:
    return with_environment(directory, {"DATABASE_URL": url})


@pytest.mark.slow
def test_an_application_without_a_database(tmp_path: Path) -> None:
    release(tmp_path)
    found = checks.database(setup(tmp_path))
    assert (found.state, found.value) == (GOOD, None)
    assert "name a database server" in found.text


@pytest.mark.slow
def test_a_database_of_an_application_without_django(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        one = with_url(tmp_path, f"oracle://u:secret-word@127.0.0.1:{port}/x")
        # Before the first run has ended there is no current release, only the units' own.
        release(tmp_path, "pins/worker-a")
        found = checks.database(one)
        assert found.state == GOOD
        assert "DATABASE_URL answers in 0" in found.text
        assert "(its port accepts connections)" in found.text
    found = checks.database(one)
    assert (found.state, "Connection refused" in found.text) == (BAD, True)
    assert "secret-word" not in str(found)


def test_a_database_without_a_release(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="there is no release in"):
        checks.database(with_url(tmp_path, "postgresql://u:p@127.0.0.1:1/x"))


BACKEND = """
import os
from django.db.backends.sqlite3 import base

class DatabaseWrapper(base.DatabaseWrapper):
    vendor = "server"

    def get_new_connection(self, conn_params):
        if "refuse" in self.settings_dict["HOST"]:
            raise base.Database.OperationalError("no login with " + self.settings_dict["PASSWORD"])
        return super().get_new_connection(conn_params)

    def is_usable(self):
        return "mute" not in self.settings_dict["HOST"] and super().is_usable()
"""
SETTINGS = """
import os
SECRET_KEY = "x"
DATABASES = {
    "default": {
        "ENGINE": "server", "NAME": ":memory:", "PASSWORD": "secret-word", "HOST": os.environ["SHOP_DATABASE"],
    },
    "local": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/no/such/file"},
}
"""
APP = """
import os
from celery import Celery
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
print("loaded")
app = Celery("shop")
"""


@pytest.mark.parametrize(
    ("variables", "state", "text"),
    [
        ({"SHOP_DATABASE": "db"}, GOOD, "default answers in 0"),
        ({"SHOP_DATABASE": "refuse"}, BAD, "default: no login with ***"),
        ({"SHOP_DATABASE": "mute"}, BAD, "default: it accepts the login, but answers no query"),
        # Its own settings count, not a URL that it may not use.
        (
            {"SHOP_DATABASE": "db", "DATABASE_URL": "postgresql://127.0.0.1:1/x"},
            GOOD,
            "default answers in 0",
        ),
    ],
)
def test_the_database_of_a_django_project_is_asked_by_its_own_connection(
    tmp_path: Path, variables: dict[str, str], state: str, text: str
) -> None:
    one = with_environment(tmp_path, variables)
    release(tmp_path)
    source = tmp_path / "opt/releases/r1/source"
    (source / "server").mkdir(parents=True)
    (source / "server/base.py").write_text(BACKEND)
    (source / "site_settings.py").write_text(SETTINGS)
    (source / "shop.py").write_text(APP)
    (source.parent / "release.json").write_text("{}")
    known = {"module": "shop", "units": [], "workers": {}}
    (tmp_path / "cli.json").write_text(json.dumps(known))
    found = checks.database(one)
    assert (found.state, found.text[: len(text)]) == (state, text), found
    # A database in a file has no server that could be down.
    assert set(found.value) == {"default"}


def test_a_database_that_hangs_times_out() -> None:
    released = threading.Event()
    began = time.monotonic()
    found = databases.run({"A": (lambda: str(released.wait(30)), [])}, 0.3)
    assert time.monotonic() - began < 15
    assert found == {"A": {"ok": False, "error": "no answer within 0.3 s"}}
    released.set()


def answer(url: str) -> dict[str, Any]:
    return databases.answer(lambda: databases.by_port(url), health_database.secrets_of(url))


def test_passwords_are_not_repeated() -> None:
    url = "postgresql://u:s3cr3t%21word@[bad/x"
    found = answer(url)
    assert found["ok"] is False
    assert "s3cr3t" not in found["error"]


@pytest.mark.parametrize("password", ["s3cr3t/word#more", "s3cr3t/", "s3cr3t?", "a%40b:s3cr3t"])
def test_an_unquoted_password_is_not_shown(password: str) -> None:
    """All users may read the result, and an error about such a URL would quote a part of it."""
    url = f"postgresql://shop:{password}@127.0.0.1:1/shop"

    assert "s3cr3t" not in answer(url)["error"]


def test_a_password_may_be_in_the_query_of_a_url() -> None:
    found = health_database.secrets_of("postgresql://h/shop?password=s3cr%2Ft&sslpassword=0ther")

    assert {"s3cr/t", "0ther"} <= set(found)


@pytest.mark.parametrize("url", ["redis://x", "https://x", "plain", "", "amqp://a@b//", "a:b"])
def test_other_urls_are_no_databases(url: str) -> None:
    assert health_database.scheme_of(url) == ""


@pytest.mark.slow
def test_a_release_that_does_not_answer_is_reported_in_one_line(tmp_path: Path) -> None:
    release(tmp_path)
    python = tmp_path / "opt/releases/r1/venv/bin/python"
    python.write_text("#!/bin/sh\necho oh >&2\necho no >&2\nexit 3\n")
    with pytest.raises(CheckError, match="ended with status 3 and no answer: no"):
        in_release.run_module(setup(tmp_path), "health_database", {}, 5)
    python.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(CheckError, match=r"did not answer within 0\.3 s"):
        in_release.run_module(setup(tmp_path), "health_database", {}, 0.3)


# --- all of them ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_if_everything_is_down_all_of_it_is_reported_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release's Python is really asked, the broker hangs, and there is no systemd."""
    monkeypatch.setattr(systemctl, "SYSTEMCTL", "/bin/false")
    release(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = {"host": "127.0.0.1", "port": port}
        document = settings.process_settings(
            facts(broker=server, results=server, ca=str(tmp_path / "ca.crt")),
            "operator",
            "s3cr3t-word",
        )
        (tmp_path / "ca.crt").write_text(Authority("fleet").pem)
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials/operator.json").write_text(json.dumps(document))
        url = f"postgresql://u:s3cr3t-word@127.0.0.1:{port}/x"
        (tmp_path / "credentials/exec.env").write_text(
            environment.environment_file({"DATABASE_URL": url})
        )
        one = setup(
            tmp_path,
            checks=tuple(checks.CHECKS),
            workers={"slow@worker2": WORKERS["slow@worker2"]},
            fleet=True,
            queues=("mail",),
            units=("shop-web.service",),
            beat={"unit": "shop-beat.service", "directory": str(tmp_path), "interval": 5},
            certificates=(str(tmp_path / "missing.crt"),),
            paths=("/",),
        )
        began = time.monotonic()
        assert runner.check(one, tmp_path) == 1
        assert time.monotonic() - began < 55
    text = (tmp_path / "shop.json").read_text()
    assert "s3cr3t-word" not in text
    found = json.loads(text)["checks"]
    assert set(found) == set(checks.CHECKS)
    for name in ("redis", "queues", "dead_letters", "clock", "units", "beat"):
        assert found[name]["state"] == BAD, name
    # Without Django nothing more is known.
    assert found["database"]["text"].endswith("(its port accepts connections)")
    # Services that can't be asked are not called down.
    assert found["workers"]["state"] == WARNING
    assert found["workers"]["text"].startswith("the workers can't be asked: ")
    assert found["certificates"]["text"].endswith("missing.crt: No such file or directory")
    for name, one_found in found.items():
        assert "\n" not in one_found["text"], name
        assert "Traceback" not in one_found["text"], name
