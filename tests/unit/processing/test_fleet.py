"""The application and its inventory fit together, also under the fleet's loader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.visibility import (
    visibility_timeout,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import (
    worker_options,
)

from tests.facts import facts
from tests.unit.processing.conftest import ROOT, VARIABLES

Read = Callable[..., dict[str, Any]]

UNDER_THE_LOADER = """
from celery.app.utils import find_app
app = find_app("config.celery_app")
conf = app.conf
names = ("broker_url", "accept_content", "task_time_limit", "task_acks_late", "task_serializer",
         "worker_prefetch_multiplier", "broker_transport_options", "result_backend")
found = {name: conf[name] for name in names}
found["loader"] = type(app.loader).__name__
"""


def visibility(inventory: dict[str, Any], knobs: dict[str, Any] | None = None) -> int:
    return visibility_timeout(
        inventory["celery_worker_instances"],
        inventory["celery_worker_defaults"],
        inventory.get("celery_app_settings"),
        inventory["celery_app_delivery"],
        knobs,
    )


@pytest.mark.parametrize("component", ["worker", "producer", "beat"])
def test_the_fleets_broker_is_used_and_the_documents_settings_stay(
    read: Read, served: dict[str, str], tmp_path: Path, inventory: dict[str, Any], component: str
) -> None:
    settings = process_settings(
        facts(
            inventory["celery_app_name"],
            broker={"host": "redis1", "port": inventory["celery_app_broker_port"]},
            results={"host": "redis1", "port": inventory["celery_app_results_port"]},
            visibility_timeout=visibility(inventory),
            delivery=inventory["celery_app_delivery"],
        ),
        component,
        "not-a-real-password",
    )
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    found = read(
        UNDER_THE_LOADER,
        **served,
        CELERY_LOADER="celery_fleet.loader.FleetLoader",
        CELERY_FLEET_COMPONENT=component,
        CELERY_FLEET_SETTINGS=str(path),
        PYTHONPATH=str(ROOT / "src"),
    )
    assert found["loader"] == "FleetLoader"
    # The environment's address has no login; this one does.
    assert found["broker_url"] == f"rediss://{component}:not-a-real-password@redis1:6387/0"
    assert found["accept_content"] == ["json"]
    assert found["task_time_limit"] == 3600
    assert found["task_acks_late"] is True
    assert found["worker_prefetch_multiplier"] == 1
    # A producer redelivers nothing, so for it no message is ever overdue.
    timeout = found["broker_transport_options"]["visibility_timeout"]
    assert timeout > 86400 if component == "producer" else timeout == 300


def test_the_time_limit_is_the_documented_hour(
    read: Read, served: dict[str, str], inventory: dict[str, Any]
) -> None:
    found = read(UNDER_THE_LOADER, **served)
    for name in inventory["celery_worker_instances"]:
        options = worker_options(
            name, inventory["celery_worker_instances"], inventory["celery_worker_defaults"]
        )
        assert options["time_limit"] == found["task_time_limit"] == 3600
        assert options["soft_time_limit"] < options["time_limit"]
    # Its workers renew their lease. Without one, the timeout is the running and the prefetched task, an hour each, and
    # an hour's drain.
    assert visibility(inventory) == 300
    assert visibility(inventory, {"lease": False}) == 7200


def test_no_password_of_redis_is_in_the_environment(inventory: dict[str, Any]) -> None:
    for name in ("celery_app_env", "celery_app_secret_env"):
        assert "redis_passwords" not in json.dumps(inventory[name])
    assert "@" not in inventory["celery_app_env"]["REDIS_URL"]
    assert set(inventory["celery_app_env_urls"]) == {"DATABASE_URL"}


def rendered(**changed: Any) -> dict[str, Any]:
    """Return the inventory's commands by their programs, with some variables changed."""
    variables = DataLoader().load_from_file(str(VARIABLES / "celery.yml"), trusted_as_template=True)
    secrets = {"processing_secret_key": "k", "processing_superuser_password": "p"}
    environment = {**variables["celery_app_env"], **changed.pop("environment", {})}
    known = {**variables, **secrets, "celery_app_env": environment, **changed}
    known |= {
        "groups": {"celery_producers": ["control1"], "redis": ["redis1"]},
        "hostvars": {"control1": {"ansible_host": "192.0.2.4"}},
        "celery_app_broker_port": 6387,
    }
    commands = Templar(loader=DataLoader(), variables=known).template(
        variables["celery_release_commands"]
    )
    return {each["argv"][2]: each["name"] for each in commands}


def test_a_changed_value_makes_its_command_run_again() -> None:
    before = rendered()
    assert before == rendered()

    def differing(**changed: Any) -> set[str]:
        after = rendered(**changed)
        return {name for name in before if before[name] != after[name]}

    assert differing(processing_superuser_password="another") == {"ensure_superuser"}
    # The key, so that the name reveals nothing about the password.
    assert differing(processing_secret_key="another") == {"ensure_superuser"}
    for name in ("VITE_APP_STATIC_ROOT", "VITE_APP_API_ROOT"):
        assert differing(environment={name: "/x"}) == {"inject_frontend", "collectstatic"}
    assert differing(environment={"ENVIRONMENT": "staging"}) == set()


def test_commands_run_on_the_right_hosts_for_each_release(inventory: dict[str, Any]) -> None:
    commands = {each["argv"][2]: each for each in inventory["celery_release_commands"]}
    everywhere = {name for name, each in commands.items() if each["hosts"] == "all"}
    assert everywhere == {
        *("wait_for_database", "load_fixtures_once", "inject_frontend", "collectstatic")
    }
    # The database records what was done, so these commands run for each release.
    assert {each["when"] for each in commands.values()} == {"release"}
    wait = commands["wait_for_database"]
    assert wait["timeout"] > int(wait["argv"][-1])


def test_the_schedule_is_declared_for_the_database(inventory: dict[str, Any]) -> None:
    assert inventory["celery_beat_scheduler"] == "database"
    queues = {
        queue for each in inventory["celery_worker_instances"].values() for queue in each["queues"]
    }
    assert {each["queue"] for each in inventory["celery_beat_schedule"].values()} <= queues
