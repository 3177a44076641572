"""The settings and parts of each promise on delivery, for an application and for a worker that differs.

The runtime reads what the control side writes; both are compared here.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import delivery
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    environment as desired_environment,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    workers as desired_workers,
)

from celery_fleet.config.settings import FleetSettings, read
from celery_fleet.delivery import overrides
from celery_fleet.delivery.options import PROFILES, Options, parse
from tests import systemd
from tests.facts import facts, workers

ALL = ("lease", "hand_back", "carry", "outage")
KNOBS = {
    "unknown_delay": 5,
    "unknown_for": 600,
    "poison_deaths": 2,
    "dead_letters_keep": 50,
    "failed_keep": 20,
}


def environment(directory: Path, content: str) -> dict[str, str]:
    """Return a process's environment from an environment file."""
    path = directory / "worker.env"
    path.write_text(content)
    return dict(word.split("=", 1) for word in systemd.environment(path))


def on(found: dict[str, Any]) -> list[str]:
    return [name for name in (*ALL, "dead_letters") if found[name]]


@pytest.mark.parametrize(
    ("promise", "knobs", "options", "take", "parts"),
    [
        ("inherit", {}, {}, "stock", []),
        ("at_least_once", {}, {}, "atomic", [*ALL, "dead_letters"]),
        ("at_most_once", {}, {}, "stock", []),
        ("at_least_once", {"fetch": "stock"}, {}, "stock", ["dead_letters"]),
        ("at_most_once", {"fetch": "atomic"}, {}, "atomic", [*ALL]),
        ("inherit", {"fetch": "atomic"}, {}, "atomic", [*ALL]),
        ("at_least_once", {"lease": False, "dead_letters": False}, {}, "atomic", [*ALL[1:]]),
        # A worker's own options.
        ("inherit", {}, {"delivery": "at_least_once"}, "atomic", [*ALL, "dead_letters"]),
        ("at_least_once", {}, {"delivery": "inherit"}, "stock", []),
        ("at_least_once", {"fetch": "stock"}, {"fetch": "auto"}, "atomic", [*ALL, "dead_letters"]),
        ("at_least_once", {}, {"fetch": "stock"}, "stock", ["dead_letters"]),
        ("at_least_once", {}, {"pool": "gevent"}, "atomic", [*ALL[:3], "dead_letters"]),
        ("at_least_once", {}, {"pool": "threads"}, "atomic", [*ALL, "dead_letters"]),
    ],
)
def test_enabled_parts_follow_promise_and_options(
    promise: str, knobs: dict[str, Any], options: dict[str, Any], take: str, parts: list[str]
) -> None:
    found = delivery.parts(promise, knobs, options)
    assert (found["fetch"], on(found)) == (take, parts)
    # The runtime knows exactly these options.
    assert asdict(parse(found)) == found


def test_numbers_have_the_runtimes_defaults() -> None:
    stock = asdict(Options())
    found = delivery.parts("inherit")
    assert {name: found[name] for name in stock} == stock


def test_nothing_is_written_if_everything_is_stock() -> None:
    assert delivery.document("inherit") == {}
    assert delivery.document("inherit", KNOBS) == {}
    assert delivery.document("at_most_once")["profile"] == "at_most_once"
    written = delivery.document("at_least_once", KNOBS)
    assert (written["unknown_delay"], written["deaths"], written["keep"]) == (5.0, 2, 50)
    assert (written["failed"], delivery.document("at_least_once")["failed"]) == (20, 0)


def test_a_worker_that_does_not_differ_has_no_overrides() -> None:
    for promise in PROFILES:
        assert delivery.override(promise, KNOBS, {"concurrency": 4}) == {}
        assert delivery.override(promise, KNOBS, {"delivery": promise, "fetch": "auto"}) == {}
    assert delivery.variable({}) == {}


def effective(
    tmp_path: Path, promise: str, knobs: dict[str, Any], options: dict[str, Any], **settings: Any
) -> FleetSettings:
    """Return what the worker's process reads: its host's file, and its own environment as systemd reads it."""
    path = tmp_path / "settings.json"
    parts = delivery.document(promise, knobs)
    document = desired_settings.process_settings(
        facts(settings=settings, delivery=promise), "worker", "p", parts=parts
    )
    path.write_text(json.dumps(document))
    own = delivery.variable(delivery.override(promise, knobs, options, settings))
    return read(path, "worker", environment(tmp_path, desired_environment.environment_file(own)))


@pytest.mark.parametrize(("app", "own"), list(product(PROFILES, PROFILES)))
@pytest.mark.parametrize("take", ["auto", "atomic", "stock"])
def test_a_worker_has_the_same_settings_as_in_a_separate_application(
    tmp_path: Path, app: str, own: str, take: str
) -> None:
    """A worker's settings and parts don't depend on the other workers of its host."""
    knobs = {**KNOBS, "fetch": "atomic", "carry": False}
    options = {"delivery": own, "fetch": take}
    found = effective(tmp_path, app, knobs, options)
    alone = effective(tmp_path, own, {**knobs, "fetch": take}, {})
    assert found.celery == alone.celery
    if found.delivery.profile == "inherit" and not found.delivery.atomic:
        # Numbers of disabled parts may differ.
        assert (found.delivery.fetch, on(asdict(found.delivery))) == ("stock", [])
    else:
        assert found.delivery == alone.delivery


def test_settings_of_the_inventory_also_override_a_workers_promise(tmp_path: Path) -> None:
    given = {"worker_prefetch_multiplier": 4}
    found = effective(tmp_path, "inherit", {}, {"delivery": "at_least_once"}, **given)
    assert (found.celery["task_acks_late"], found.celery["worker_prefetch_multiplier"]) == (True, 4)
    found = effective(tmp_path, "at_least_once", {}, {"delivery": "inherit"}, **given)
    assert found.celery["worker_prefetch_multiplier"] == 4
    assert "task_acks_late" not in found.celery


# --- units -------------------------------------------------------------------------------------------


def state(instances: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
    """Return the files of a host's workers by path."""
    own = facts(host="w1", directory="/etc/shop", delivery=more.get("delivery", "inherit"))
    made = desired_workers.worker_state(
        own, workers(instances, knobs=more.get("knobs", {})), release="1", timeout=9
    )
    return {item["dest"]: item for item in made["files"]}


def test_a_worker_that_differs_has_overrides_in_its_environment(tmp_path: Path) -> None:
    workers = {"a": {}, "b": {"fetch": "stock"}, "c": {"delivery": "at_most_once"}}
    files = state(workers, delivery="at_least_once", knobs=KNOBS, settings={})
    own = {
        name: environment(tmp_path, files[f"/etc/shop/worker-{name}.env"]["content"])
        for name in workers
    }
    assert overrides.VARIABLE not in own["a"]
    told = json.loads(own["b"][overrides.VARIABLE])
    assert told == {"delivery": {"fetch": "stock", **dict.fromkeys(ALL, False)}}
    told = json.loads(own["c"][overrides.VARIABLE])
    assert told["celery"] == {"task_acks_late": False, "task_retry_on_worker_lost": False}
    assert told["unset"] == ["worker_prefetch_multiplier"]


def test_a_unit_only_hands_back_if_its_worker_does() -> None:
    def hands_back(**more: Any) -> dict[str, bool]:
        files = state({"a": {}, "b": {"fetch": "stock"}}, **more)
        path = "/etc/systemd/system/shop-worker@{}.service.d/10-fleet.conf"
        return {name: files[path.format(name)]["vars"]["hand_back"] for name in "ab"}

    assert hands_back() == {"a": False, "b": False}
    assert hands_back(delivery="at_least_once") == {"a": True, "b": False}
    assert hands_back(delivery="at_least_once", knobs={"hand_back": False}) == dict.fromkeys(
        "ab", False
    )


def test_the_fleet_knows_whether_any_worker_fetches_atomically() -> None:
    workers = {"a": {"fetch": "stock"}, "b": None}
    assert delivery.fetches_atomically(workers, None, "at_least_once")
    assert not delivery.fetches_atomically(workers, None, "inherit")
    assert delivery.fetches_atomically(workers, {"delivery": "at_least_once"}, "inherit")
    assert not delivery.fetches_atomically({"a": {"fetch": "stock"}}, None, "at_least_once")


def test_the_fleet_knows_whether_all_workers_keep_their_tasks_on_a_new_connection() -> None:
    workers: dict[str, dict[str, str] | None] = {"a": None, "b": {"pool": "threads"}}
    keep = delivery.keeps_tasks_on_reconnect
    assert keep(workers, None, "at_least_once")
    assert not keep(workers, None, "inherit")
    assert not keep(workers, None, "at_least_once", {"carry": False})
    assert not keep({**workers, "c": {"fetch": "stock"}}, None, "at_least_once")
    assert not keep({**workers, "c": {"delivery": "inherit"}}, None, "at_least_once")
