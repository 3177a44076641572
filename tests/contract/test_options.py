"""Each option in the tables has an effect: it changes something that is rendered.

An option without a line in a template, or without a place in a function, would be accepted and do nothing.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import index
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.application_options import (
    APPLICATION,
    CLIENT,
    COMMAND,
    DIRECTORY,
    ENTRY,
    LOG_ROTATE,
    LOGIN,
    PACKAGE_INDEX,
    URL,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import Option
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.producer_options import (
    PRODUCER,
    STATIC,
    WEB,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.worker_options import (
    WORKER,
    WORKER_VARIABLES,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart import census
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    release_commands,
    rendering,
)

from celery_fleet.config import entries
from tests.unit.preflight import oracle
from tests.unit.preflight.inventory import valid

ROOT = Path(__file__).resolve().parents[2]
TABLE = "plugins/plugin_utils/desired/worker_options.py"

# Values of options that need more than the right type.
SAMPLES: dict[str, Any] = {
    "autoscale": {"min": 3, "max": 10, "wait": "30s"},
    "celery_app_directories": {"/srv/shop/another": {}},
    "celery_app_task_routes": {"app.*": {"queue": "mail"}},
    "celery_app_clients": {"partner": {"queues": ["maintenance"]}},
    "celery_app_client_passwords": {"partner": "another"},
    "celery_app_env_urls": {"A_URL": {"scheme": "https", "host": "h"}},
    "celery_producer_web_auth_password": "another-password",
    "celery_producer_web_listen": "127.0.0.1:5000",
    "celery_producer_web_proxy": "none",
    "celery_producer_web_static": {"/static/": {"path": "/srv/shop/another"}},
    "celery_worker_host_instances": ["discounts"],
    "celery_worker_instances": {"mail": {}},
    "crontab": {"minute": "5"},
    "logins": [{"host": "index", "user": "another", "password": "another"}],
    "owner": "another",
    "solar": {"event": "sunrise", "latitude": 1, "longitude": 1},
}
# Options that another test covers, or that tasks of a run read themselves.
ELSEWHERE = (
    "celery_producer_remote_control",  # affects Redis's rules: tests/contract/test_acl_application.py
    "celery_app_redis_ca",  # below
    "celery_app_lease_host",  # in `delegate_to`
    "celery_app_sentinel_port",  # only with several hosts of Redis: tests/unit/desired/test_redis_address.py
    "celery_app_wait_replicas",  # the same
)
# Path in an inventory -> the options below it. Those of workers, entries, commands, the source and the package index
# have their own tests.
RENDERED: dict[tuple[str, ...], tuple[Option, ...]] = {
    (): tuple(
        option
        for option in (*APPLICATION, *PRODUCER, *WORKER_VARIABLES)
        if not option.options and option.name not in ELSEWHERE
    ),
    ("celery_producer_web",): WEB,
    ("celery_producer_web_static", "/static/"): STATIC,
    ("celery_app_env_urls", "OTHER_URL"): URL,
    ("celery_app_clients", "partner"): CLIENT,
    ("celery_app_directories", "/srv/shop/media"): DIRECTORY,
    ("celery_app_log_rotate",): LOG_ROTATE,
}
SOURCE = next(option for option in APPLICATION if option.name == "celery_app_source").options
# Parts of the plan that render what is in the tables, beginning with the part of most options.
PARTS = (
    *("celery_worker", "celery_runtime", "fleet", "celery_beat", "celery_producer"),
    *("redis", "celery_cli"),
)
# The inventory that all others differ from.
BASE: dict[str, Any] = {}


def values(option: Option) -> list[Any]:
    """Return values of an option; at least one differs from its default."""
    if option.name in SAMPLES:
        return [SAMPLES[option.name]]
    number = 7.0 if option.highest is None else option.highest
    found: dict[str, list[Any]] = {
        "int": [int(max(number, option.lowest or 0))],
        "float": [max(number, option.lowest or 0)],
        "bool": [True, False],
        "list": [["/srv/x"]],
        "dict": [{"x": "1"}],
        "path": ["/srv/x"],
        "str": [*option.choices] or [option.like.split()[0].rstrip(",") if option.like else "x"],
    }
    return found[option.kind]


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Each part of the delivery is on, logs go to files, and there are a cache, a client outside the fleet, a directory
    # and static files.
    BASE.update(
        valid(tmp_path_factory.mktemp("source")),
        celery_app_delivery="at_least_once",
        celery_app_log_destination="file",
        celery_app_clients={"partner": {"queues": ["discounts"]}},
        celery_app_client_passwords={"partner": "one"},
        celery_app_cache=True,
        celery_app_directories={"/srv/shop/media": {}},
        celery_producer_web_static={"/static/": {"path": "/srv/shop/static"}},
    )
    BASE["redis_passwords"]["cache"] = "another"
    with rendering.compiled_once():
        yield


def with_value(value: Any, *path: str) -> dict[str, Any]:
    """Return the inventory with a value at a path of keys."""
    made = copy.deepcopy(BASE)
    *way, last = path
    inner = made
    for name in way:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return made


def rendered(everywhere: Mapping[str, Any], part: str) -> str:
    text = json.dumps(oracle.wanted_by(everywhere, part), default=str, sort_keys=True)
    # Comments and empty lines don't count as an effect.
    return re.sub(r"(\\n(# [^\\]*)?)+", " ", text)


@cache
def without(part: str) -> str:
    return rendered(BASE, part)


def changed_by(everywhere: Mapping[str, Any]) -> str:
    """Return the first part of the plan that another inventory changes; nothing if it changes none."""
    return next((part for part in PARTS if rendered(everywhere, part) != without(part)), "")


def in_a_roll(options: Mapping[str, Any]) -> Any:
    """Return what a rolling restart does to a worker with these options."""
    findings = census.Findings(present=["h1"], items=[], census={}, active={}, left={})
    hostvars = {"h1": {"celery_app_name": "shop"}}
    (found,) = census.workers("shop", hostvars, ["h1"], {"w": options}, findings)
    return found.can_overlap


@pytest.mark.parametrize(
    "option", [one for one in WORKER if one.name != "slo"], ids=lambda option: option.name
)
def test_an_option_of_a_worker_reaches_its_unit(option: Option) -> None:
    for value in values(option):
        given = with_value(value, "celery_worker_instances", "discounts", option.name)
        if rendered(given, "celery_worker") != without("celery_worker"):
            return
        base = {"concurrency": 2}
        if in_a_roll({**base, option.name: value}) != in_a_roll(base):
            return
    pytest.fail(
        f"{option.name} changes nothing. Give it a flag or a directive in {TABLE}, or use its value in workers.py, "
        "in the same directory."
    )


def test_an_slo_restarts_no_worker() -> None:
    """It only concerns monitoring; tests/unit/monitoring tests its effect."""
    slo = {"wait": "30s", "failures": "1%"}
    given = with_value(slo, "celery_worker_instances", "discounts", "slo")
    assert rendered(given, "celery_worker") == without("celery_worker")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "option"),
    [
        pytest.param((*below, option.name), option, id=" ".join((*below, option.name)))
        for below, table in RENDERED.items()
        for option in table
    ],
)
def test_an_option_of_the_application_reaches_a_host(path: tuple[str, ...], option: Option) -> None:
    assert any(changed_by(with_value(value, *path)) for value in values(option))


@pytest.mark.slow
def test_the_authority_of_a_redis_elsewhere_reaches_a_host() -> None:
    everywhere = with_value("rediss://shop:password@redis.example.org/0", "celery_app_broker_url")
    own = everywhere | {"celery_app_redis_ca": "-----BEGIN CERTIFICATE-----"}
    assert rendered(own, "celery_worker") != rendered(everywhere, "celery_worker")


@pytest.mark.parametrize("option", SOURCE, ids=lambda option: option.name)
def test_an_option_of_the_source_is_read_by_what_packs_it(option: Option) -> None:
    """The run itself packs the release."""
    programs = ("source.py", "archives.py", "lock_files.py", "requirements.py")
    packs = "".join((ROOT / "plugins/plugin_utils/run" / name).read_text() for name in programs)
    assert f'"{option.name}"' in packs


@pytest.mark.parametrize("option", PACKAGE_INDEX, ids=lambda option: option.name)
def test_an_option_of_the_package_index_reaches_pip(option: Option) -> None:
    base = {"url": "https://example.org/simple"}
    assert any(for_pip({**base, option.name: value}) != for_pip(base) for value in values(option))


@pytest.mark.parametrize("option", LOGIN, ids=lambda option: option.name)
def test_an_option_of_a_login_reaches_pip(option: Option) -> None:
    base = {"host": "index", "user": "u", "password": "p"}
    other = {**base, option.name: "another"}
    assert for_pip({"logins": [base]}) != for_pip({"logins": [other]})


def for_pip(given: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the files that tell pip of a package index."""
    return index._files(given, Path("/srv/x"))


# Only the release check reads `override`; beat does not get it.
@pytest.mark.parametrize(
    "option", [one for one in ENTRY if one.name != "override"], ids=lambda option: option.name
)
def test_an_option_of_an_entry_is_read_by_beat(option: Option) -> None:
    base = {"task": "app.tasks.clean", "interval": 5}
    times = ("crontab", "interval", "solar")
    kept = {key: item for key, item in base.items() if option.name not in times or key not in times}
    parsed = [
        entries.parse_entries({"e": {**kept, option.name: value}}) for value in values(option)
    ]
    assert any(one != entries.parse_entries({"e": base}) for one in parsed)


@pytest.mark.parametrize("option", COMMAND, ids=lambda option: option.name)
def test_an_option_of_a_command_is_read_by_the_run(option: Option) -> None:
    base = {"name": "migrate", "argv": ["true"]}
    found = [
        release_commands.due([{**base, option.name: value}], {}, {}, "h1", ["h1"])
        for value in values(option)
    ]
    assert any(one != release_commands.due([base], {}, {}, "h1", ["h1"]) for one in found)
