"""How a worker's environment overrides the settings file of its host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.common.errors import FleetError
from celery_fleet.config.settings import read
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.overrides import VARIABLE, applied

FILE: dict[str, Any] = {
    "format": 1,
    "app": "shop",
    "component": "worker",
    "celery": {"task_acks_late": True, "worker_prefetch_multiplier": 1, "timezone": "UTC"},
    "delivery": {"profile": "at_least_once", "fetch": "atomic", "lease": True, "deaths": 5},
}


def environ(**given: Any) -> dict[str, str]:
    return {VARIABLE: json.dumps(given)}


def test_options_are_overridden_one_by_one() -> None:
    over = environ(
        celery={"task_acks_late": False},
        unset=["worker_prefetch_multiplier", "of_another_runtime"],
        delivery={"fetch": "stock", "lease": False},
    )
    found = applied(FILE, over)
    assert found["celery"] == {"task_acks_late": False, "timezone": "UTC"}
    assert found["delivery"] == {
        "profile": "at_least_once",
        "fetch": "stock",
        "lease": False,
        "deaths": 5,
    }
    # Other workers use the file's options, which must stay.
    assert FILE["celery"]["task_acks_late"] is FILE["delivery"]["lease"] is True


def test_without_an_override_the_file_is_used() -> None:
    for given in ({}, {VARIABLE: ""}, environ()):
        assert applied(FILE, given) == FILE
    bare = {name: value for name, value in FILE.items() if name != "delivery"}
    assert applied(bare, environ()) == bare
    assert applied(bare, environ(delivery={"fetch": "atomic"}))["delivery"] == {"fetch": "atomic"}


@pytest.mark.parametrize("component", ["beat", "flower", "producer", "operator"])
def test_only_workers_have_overrides(component: str) -> None:
    document = {**FILE, "component": component}
    assert applied(document, environ(delivery={"fetch": "stock"})) == document
    assert applied(document, {VARIABLE: "{"}) == document


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"celry": {}}', "celry is not known"),
        ('{"celery": []}', "celery must be an object"),
        ('{"unset": {}}', "unset must be a list"),
        ('{"delivery": 1, "unset": 2}', "unset must be a list"),
    ],
)
def test_anything_else_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(FleetError) as error:
        applied(FILE, {VARIABLE: text})
    assert words in str(error.value)
    assert VARIABLE in str(error.value)
    assert "site.yml" in str(error.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "settings.json"
    found.write_text(json.dumps(FILE))
    return found


def test_a_process_reads_its_own_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read(path, "worker").delivery == Options(
        profile="at_least_once", fetch="atomic", lease=True, deaths=5
    )
    monkeypatch.setenv(VARIABLE, environ(delivery={"fetch": "stock", "lease": False})[VARIABLE])
    found = read(path, "worker")
    assert (found.delivery.fetch, found.delivery.deaths) == ("stock", 5)


def test_the_combined_settings_are_checked(path: Path) -> None:
    with pytest.raises(FleetError, match=r"delivery\.lease needs delivery\.fetch: atomic"):
        read(path, "worker", environ(delivery={"fetch": "stock"}))
    path.write_text(json.dumps({**FILE, "delivery": []}))
    with pytest.raises(FleetError, match="delivery must be a mapping"):
        read(path, "worker", environ(celery={}))
