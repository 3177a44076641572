"""The runtime on the hosts reads the settings that the control side writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from celery_fleet.config.settings import FleetSettings, read
from celery_fleet.delivery.options import Options
from tests import systemd
from tests.render.conftest import ONE_REDIS
from tests.render.fleet import Fleet, Host

COMPONENTS = {
    "worker": "celery_workers",
    "beat": "celery_beat",
    "producer": "celery_producers",
    "flower": "flower",
    # On every host with a release, and on Redis's hosts.
    "operator": "fleet",
}


def written(fleet: Fleet, component: str) -> list[tuple[Host, str]]:
    """Return the component's settings on each host that has some."""
    found = []
    for host in fleet.hosts.values():
        path = f"/etc/celery-fleet/{host.variables['celery_app_name']}/credentials/{component}.json"
        if path in host.files:
            found.append((host, host.text(path)))
    assert found, f"no host has settings for {component}"
    return found


@pytest.mark.parametrize("fleet", ONE_REDIS, indirect=True)
@pytest.mark.parametrize("component", COMPONENTS)
def test_the_runtime_accepts_the_settings(fleet: Fleet, component: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    for host, text in written(fleet, component):
        path.write_text(text)
        settings = read(path, component)
        assert isinstance(settings, FleetSettings)
        url = urlsplit(json.loads(text)["celery"]["broker_url"])
        redis = next(
            name for name, other in fleet.hosts.items() if "redis@" in " ".join(other.units)
        )
        assert (url.scheme, url.username, url.hostname) == ("rediss", component, redis)
        ca = json.loads(text)["celery"]["broker_use_ssl"]["ssl_ca_certs"]
        assert ca in host.files


def test_beat_has_the_inventorys_schedule(fleet: Fleet) -> None:
    for host, text in written(fleet, "beat"):
        wanted: dict[str, Any] = host.variables["celery_beat_schedule"]
        assert json.loads(text)["celery"]["beat_schedule"] == wanted


def test_with_a_database_beat_has_no_entry_and_the_operator_has_all(
    flower_alone: Fleet, tmp_path: Path
) -> None:
    ((host, text),) = written(flower_alone, "beat")
    document = json.loads(text)
    assert (document["beat_scheduler"], document["celery"]["beat_schedule"]) == ("database", {})
    # Beat does not read the policy for edited entries, so that must not restart it.
    assert document["beat_schedule_on_edit"] == "keep"
    path = "/etc/celery-fleet/other-shop/credentials/schedule.json"
    file = host.files[path]
    assert (file["mode"], file["secret"]) == ("0600", True)
    (tmp_path / "settings.json").write_text(file["content"])
    settings = read(tmp_path / "settings.json", "beat")
    assert set(settings.schedule or {}) == set(host.variables["celery_beat_schedule"])
    assert (settings.scheduler, settings.schedule_edited) == ("database", "reset")
    unit = host.units["other-shop-beat.service"]
    assert path not in unit["files"]
    environment = host.text("/etc/celery-fleet/other-shop/beat.env")
    assert "--scheduler=django_celery_beat.schedulers:DatabaseScheduler" in environment
    assert "--schedule=" not in environment
    # The plan says that the database could not be asked.
    assert "the database is asked once the release is built" in flower_alone.output


def test_without_a_schedule_in_a_database_nothing_of_it_is_written(local: Fleet) -> None:
    ((host, text),) = written(local, "beat")
    assert "beat_scheduler" not in json.loads(text)
    assert not [path for path in host.files if path.endswith("/schedule.json")]
    assert host.parts["celery_beat_schedule"] == {
        "owned": {"files": ["/etc/celery-fleet/flexiprice/credentials/schedule.json"]}
    }


def test_all_have_the_inventorys_routes(fleet: Fleet) -> None:
    for component in ("worker", "beat", "producer"):
        for host, text in written(fleet, component):
            assert (
                json.loads(text)["celery"]["task_routes"]
                == host.variables["celery_app_task_routes"]
            )


def test_all_components_have_the_same_visibility_timeout(fleet: Fleet) -> None:
    found = {
        json.loads(text)["celery"]["broker_transport_options"]["visibility_timeout"]
        for component in ("worker", "beat")
        for _, text in written(fleet, component)
    }
    assert len(found) == 1
    # Components that run no tasks don't redeliver any.
    for component in ("producer", "flower", "operator"):
        for _, text in written(fleet, component):
            options = json.loads(text)["celery"]["broker_transport_options"]
            assert options["visibility_timeout"] > 100 * max(found)


def delivered(fleet: Fleet, path: Path) -> dict[str, FleetSettings]:
    """Return what each worker of a fleet reads: its host's file, with the overrides of its own environment."""
    found = {}
    for host, text in written(fleet, "worker"):
        app = host.variables["celery_app_name"]
        for unit in host.units:
            if not unit.startswith(f"{app}-worker@"):
                continue
            name = unit.removeprefix(f"{app}-worker@").removesuffix(".service")
            (path / "settings.json").write_text(text)
            (path / "env").write_text(host.text(f"/etc/celery-fleet/{app}/worker-{name}.env"))
            environ = dict(word.split("=", 1) for word in systemd.environment(path / "env"))
            found[f"{name}@{host.name}"] = read(path / "settings.json", "worker", environ)
    return found


def test_the_demo_enables_all_of_the_delivery(local: Fleet, tmp_path: Path) -> None:
    found = delivered(local, tmp_path)
    assert len({node.partition("@")[2] for node in found}) > 1
    for settings in found.values():
        assert settings.delivery == Options(
            profile="at_least_once",
            fetch="atomic",
            **dict.fromkeys(("lease", "hand_back", "carry", "outage", "dead_letters"), True),
            stock_visibility=4 * 1800 + 1800,
        )
        assert settings.celery["task_acks_late"] is True
        assert settings.celery["broker_transport_options"]["visibility_timeout"] == 300


def test_a_worker_may_differ_from_the_others_of_its_host(odd: Fleet, tmp_path: Path) -> None:
    found = delivered(odd, tmp_path)
    parts = {name.partition("@")[0]: settings.delivery for name, settings in found.items()}
    assert set(parts) == {"discounts", "maintenance", "analytics"}
    assert parts["maintenance"] == parts["analytics"]
    assert (parts["analytics"].fetch, parts["analytics"].lease) == ("atomic", True)
    assert (parts["discounts"].fetch, parts["discounts"].lease) == ("stock", False)
    assert {(one.hand_back, one.dead_letters, one.deaths) for one in parts.values()} == {
        (False, True, 5)
    }
    # This worker renews nothing, so the common timeout is longer than it may hold a task.
    for settings in found.values():
        assert settings.celery["broker_transport_options"]["visibility_timeout"] == 3600


def test_without_a_promise_the_settings_have_none(production: Fleet) -> None:
    for host, text in written(production, "worker"):
        assert "delivery" not in json.loads(text)
        for path in host.files:
            if path.endswith(".env") and "/worker-" in path:
                assert "CELERY_FLEET_DELIVERY" not in host.text(path)


def test_processes_that_run_or_send_tasks_have_the_applications_environment(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        for part in ("celery_worker", "celery_beat", "celery_producer"):
            if part in host.parts:
                files = {item["dest"] for item in host.parts[part]["files"]}
                directory = host.variables["celery_app_config_directory"]
                assert {f"{directory}/app.env", f"{directory}/credentials/secret.env"} <= files
