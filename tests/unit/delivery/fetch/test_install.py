"""Which way of fetching is used, and what is logged about it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import kombu.transport
import pytest

from celery_fleet.delivery.fetch import install as take
from celery_fleet.delivery.options import ATOMIC, STOCK, Options
from tests.unit.delivery.consumers import installed

ALL = Options(
    "at_least_once", ATOMIC, lease=True, hand_back=True, carry=True, outage=True, dead_letters=True
)


def test_the_stock_fetch_stays_stock() -> None:
    before = dict(kombu.transport.TRANSPORT_ALIASES)
    assert take.install(Options()) == Options()
    assert before == kombu.transport.TRANSPORT_ALIASES


def test_a_known_kombu_gets_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed():  # which restores the previous state
        assert take.install(ALL) is ALL
        assert (
            "celery_fleet.delivery.fetch.transport:" in kombu.transport.TRANSPORT_ALIASES["rediss"]
        )


@pytest.mark.parametrize("version", ["5.8.0", "5.2.7", "6.0", ""])
def test_an_unknown_kombu_stays_stock_with_a_warning(
    caplog: pytest.LogCaptureFixture, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take.versions, "installed", lambda: {"kombu": version or None})
    before = dict(kombu.transport.TRANSPORT_ALIASES)
    found = take.install(ALL)
    assert before == kombu.transport.TRANSPORT_ALIASES
    assert found == Options("at_least_once", STOCK, dead_letters=True)
    assert "as in stock Celery" in caplog.text
    assert version in caplog.text


def test_the_enabled_parts_are_described_in_one_line() -> None:
    assert take.describe(ALL, 300.0) == (
        "delivery at_least_once: atomic fetch with pushes, lease 300 s, hand-back, tasks kept on"
        " reconnect, outage guard, dead letters"
    )
    assert take.describe(Options("at_most_once"), 3600) == "delivery at_most_once: stock fetch"
    assert take.describe(Options(), 3600) is None
    assert take.describe(Options(fetch=ATOMIC), 1) == "delivery inherit: atomic fetch with pushes"


def test_the_scripts_and_their_helpers_need_no_release(tmp_path: Path) -> None:
    """The hand-back runs without a release: it only has the standard library and this package."""
    code = (
        "import sys; from celery_fleet.delivery import scripts, keys, tags, hooks, options;"
        "from celery_fleet.delivery import messages;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'redis', 'kombu', 'celery'}))"
    )
    source = Path(take.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr


LOADED = """
import json, sys
from celery import Celery
app = Celery("shop")
app.conf.broker_url
app.loader.on_worker_init()
import kombu.transport
from celery import signals
from celery_fleet.delivery import tags
from celery_fleet.loader import current_settings
signals.celeryd_init.send(sender="mail@here", instance=None, conf=app.conf, options={})
print(json.dumps([
    kombu.transport.TRANSPORT_ALIASES["redis"], tags.owner().node, current_settings().delivery.fetch,
]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("component", ["worker", "beat", "producer"])
@pytest.mark.parametrize("wanted", [STOCK, ATOMIC])
def test_only_a_worker_with_the_atomic_fetch_uses_the_script(
    tmp_path: Path, component: str, wanted: str
) -> None:
    document: dict[str, Any] = {
        "format": 1,
        "component": component,
        "app": "shop",
        "celery": {"broker_url": "redis://127.0.0.1:1/0"},
        "delivery": {"fetch": wanted},
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document))
    code = LOADED
    if component == "producer":  # its applications never start a worker
        code = code.replace("app.loader.on_worker_init()", "")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(Path(take.__file__).parents[3]),
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_FLEET_COMPONENT": component,
            "CELERY_FLEET_SETTINGS": str(path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alias, node, kept = json.loads(done.stdout.splitlines()[-1])
    assert ("celery_fleet.delivery.fetch.transport:" in alias) == (
        component == "worker" and wanted == ATOMIC
    )
    assert (node == "mail@here") == (component == "worker")
    assert kept == wanted
    assert logging.getLogger("celery_fleet.delivery")


UNKNOWN = """
import json
from celery import Celery
from celery_fleet.compat.minors import chosen
chosen.versions.KOMBU = ("4.6",)
app = Celery("shop")
app.conf.broker_url
app.loader.on_worker_init()
from celery_fleet.loader import current_settings
print(json.dumps([
    dict(app.conf.broker_transport_options), current_settings().delivery.fetch,
    [one.__name__ for one in app.conf.worker_consumer.__mro__],
]))
"""


def test_with_an_unknown_kombu_the_visibility_timeout_is_that_of_a_worker_without_a_lease(
    tmp_path: Path,
) -> None:
    document: dict[str, Any] = {
        "format": 1,
        "component": "worker",
        "app": "shop",
        "celery": {
            "broker_url": "redis://127.0.0.1:1/0",
            "broker_transport_options": {"visibility_timeout": 300, "socket_timeout": 7},
        },
        "delivery": {
            **dict.fromkeys(("lease", "hand_back", "carry", "outage"), True),
            "fetch": ATOMIC,
            "stock_visibility": 4500.0,
        },
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document))
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(Path(take.__file__).parents[3]),
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_FLEET_COMPONENT": "worker",
            "CELERY_FLEET_SETTINGS": str(path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    transport, kept, consumers = json.loads(done.stdout.splitlines()[-1])
    assert transport == {"visibility_timeout": 4500.0, "socket_timeout": 7}
    assert kept == STOCK
    # Without the parts that let tasks continue through a lost connection.
    assert consumers == ["ParkingConsumer", "Parking", "Consumer", "object"]
