"""Whether a release suits an inventory, according to its note."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import suitability
from ansible_collections.celery_fleet.core.plugins.module_utils.release.note import (
    again,
    built,
    outlived,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import (
    names_expected,
    refusals,
    remarks,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.host_scripts import release_note
from celery.app.defaults import NAMESPACES, flatten

from celery_fleet.compat import versions as runtime
from tests.unit.release.notes import entry, note, refused

EVERY = {"minute": "*", "hour": "*", "day_of_week": "*", "day_of_month": "*", "month_of_year": "*"}


def test_a_suitable_release_is_accepted() -> None:
    ours = {"mine": {"task": "app.y", "interval": 5}, "theirs": {"enabled": False}}
    code = {"theirs": entry("app.gone"), "other": entry()}
    assert refused(note(code), schedule=ours) == []
    # A note from before notes described the application.
    assert refused('{"tasks": ["app.y"]}', schedule={"mine": ours["mine"]}) == []


@pytest.mark.parametrize(
    "text", ["", "half", "[]", "{}", '{"tasks": 5}', '{"tasks": [], "application": 5}']
)
def test_a_malformed_note_is_refused(text: str) -> None:
    (words,) = refused(text)
    assert words.startswith("release r1: its release.json can't be read. Remove")


def versions(**found: str | None) -> str:
    return json.dumps({"tasks": [], "versions": {"celery": "5.7.0", "kombu": "5.7.1", **found}})


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({"celery": "5.3.6"}, "celery 5.3.6"),
        ({"kombu": "5.70.0"}, "kombu 5.70.0"),
        ({"kombu": "5.3.7"}, "kombu 5.3.7"),
        ({"celery": "6.0"}, "celery 6.0"),
    ],
)
def test_the_atomic_fetch_refuses_unknown_minor_versions(found: dict[str, str], name: str) -> None:
    (words,) = refused(versions(**found), atomic=True)
    assert words.startswith(
        f"release r1 has {name}, and atomic fetching only supports 5.7, 5.6, 5.5, 5.4."
    )
    assert "celery_worker_fetch: stock" in words
    # Without it, and for a release with an older note.
    assert refused(versions(**found), atomic=False) == []
    assert refused(versions(celery=None, kombu=None), atomic=True) == []
    assert refused(note(), atomic=True) == []


def test_versions_that_the_atomic_fetch_supports() -> None:
    assert {"celery": runtime.CELERY, "kombu": runtime.KOMBU} == suitability.ATOMIC
    for celery in ("5.7.0", "5.7", "5.7.12", "5.4.0"):
        assert refused(versions(celery=celery), atomic=True) == []


@pytest.mark.parametrize(
    ("celery", "name", "value", "minor"),
    [
        ("5.6.3", "task_retry_on_worker_lost", True, "5.7"),
        ("5.4.0", "worker_soft_shutdown_timeout", 5, "5.5"),
        ("5.5.3", "worker_eta_task_limit", 10, "5.6"),
    ],
)
def test_settings_that_the_celery_of_a_release_would_pass_over(
    celery: str, name: str, value: object, minor: str
) -> None:
    (words,) = refused(versions(celery=celery), settings={name: value})
    assert words.startswith(
        f"celery_app_settings.{name} is new in Celery {minor}, and release r1 has {celery}"
    )
    assert f"Require celery=={minor}.*, or remove it" in words
    assert refused(versions(celery=f"{minor}.0"), settings={name: value}) == []
    assert refused(versions(celery=None), settings={name: value}) == []
    # An older version does that anyway.
    assert refused(versions(celery="5.4.0"), settings={"task_retry_on_worker_lost": False}) == []


def test_settings_and_the_minor_that_knows_them_first() -> None:
    here = {name for name, _ in flatten(NAMESPACES)}
    assert {name for names in suitability.SINCE.values() for name in names} <= here


def test_a_redis_py_without_resp3_is_remarked() -> None:
    (words,) = remarks("r1", versions(redis="7.4.0"), {"atomic": True})
    assert "redis-py 7.4.0" in words
    assert "redis>=8" in words
    assert refused(versions(redis="7.4.0"), atomic=True) == []
    assert remarks("r1", versions(redis="7.4.0"), {}) == []
    for text in (
        versions(redis="8.0.0"),
        versions(redis="8.1.0"),
        versions(),
        note(),
        "half",
        "[]",
    ):
        assert remarks("r1", text, {"atomic": True}) == []


def test_tasks_of_the_inventory_that_the_release_lacks() -> None:
    ours = {
        "a": {"task": "app.none", "interval": 5},
        "b": {"task": "no.one", "interval": 5, "enabled": False},
        # Celery's own.
        "c": {"task": "celery.backend_cleanup", "interval": 5},
    }
    assert refused(note(), schedule=ours) == [
        (
            "celery_beat_schedule.a: release r1 has no task app.none. Did you mean app.y? Correct the entry, or deploy "
            "code that has it."
        )
    ]


def test_a_release_that_the_fleet_holds_need_not_have_all_that_the_inventory_names() -> None:
    """A fleet that goes back has an inventory that was written for the newer release."""
    demands = {
        "held": True,
        "queues": ["celery"],
        "schedule": {"nightly": {"task": "app.new", "interval": 5}},
        "settings": {"worker_eta_task_limit": 5},
    }
    text = json.dumps(
        {**json.loads(note({"e": entry(goes_to="gone")})), "versions": {"celery": "5.5.3"}}
    )
    assert refusals("r1", text, demands) == []
    first, second, third = remarks("r1", text, demands)
    assert first == (
        "celery_beat_schedule.nightly: release r1 has no task app.new. Did you mean app.y? The entry is left out while "
        "the fleet holds this release."
    )
    assert (
        "is left as it is in the database"
        in remarks("r1", text, {**demands, "scheduler": "database"})[0]
    )
    assert "celery_app_settings.worker_eta_task_limit is new in Celery 5.6" in second
    assert "to the queue gone, which no worker of the inventory consumes" in third
    # With these its workers would do nothing, or lose tasks.
    eager = json.dumps({"tasks": [], "application": {"task_always_eager": True}})
    assert refusals("r1", eager, demands)


def test_tasks_of_the_code_that_the_release_does_not_register() -> None:
    (words,) = refused(note({"e": entry("shop.x")}))
    assert words == (
        "beat_schedule of release r1, in its code: entry e sends shop.x, which the release does not register: did you "
        "mean app.x? Fix it there, or disable it with celery_beat_schedule: {e: {enabled: false}}."
    )
    (words,) = refused(note({"e": entry("shop.z")}))
    assert "is its module in include or imports?" in words
    # Celery's own.
    assert refused(note({"e": entry("celery.backend_cleanup")})) == []


CRONTAB = {"task": "app.x", "crontab": {"minute": 0, "hour": "8-19"}}
SAME_CRONTAB = entry(crontab={**EVERY, "minute": "0", "hour": "8-19"})


@pytest.mark.parametrize(
    ("ours", "theirs", "differing"),
    [
        (CRONTAB, SAME_CRONTAB, ""),
        ({**CRONTAB, "crontab": {"minute": 5, "hour": "8-19"}}, SAME_CRONTAB, "time"),
        ({**CRONTAB, "task": "app.y"}, SAME_CRONTAB, "task"),
        ({**CRONTAB, "queue": "q"}, SAME_CRONTAB, "queue"),
        ({**CRONTAB, "queue": "q"}, {**SAME_CRONTAB, "queue": "q"}, ""),
        ({**CRONTAB, "options": {"queue": "q"}}, {**SAME_CRONTAB, "queue": "q"}, ""),
        ({**CRONTAB, "args": [1], "kwargs": {"a": 2}}, SAME_CRONTAB, "args and kwargs"),
        ({**CRONTAB, "options": {"expires": 5}}, SAME_CRONTAB, "options"),
        ({"task": "app.x", "interval": 30}, entry(), ""),
        ({"task": "app.x", "interval": 30}, entry(relative=True), "time"),
        (
            {"task": "app.x", "solar": {"event": "sunset", "latitude": 1, "longitude": 2}},
            entry(solar={"event": "sunset", "latitude": 1.0, "longitude": 2.0}),
            "",
        ),
        ({"task": "app.x", "interval": 30}, entry(custom="app.Odd <odd>"), "time"),
        ({"enabled": False}, entry(), ""),
    ],
)
def test_an_entry_that_differs_between_inventory_and_code_is_refused(
    ours: dict[str, Any], theirs: dict[str, Any], differing: str
) -> None:
    found = refused(note({"e": theirs}), schedule={"e": ours})
    assert bool(found) == bool(differing)
    if differing:
        assert found[0].startswith(
            f"celery_beat_schedule.e: the code of release r1 has an entry of this name with another {differing}. Add"
        )
        assert refused(note({"e": theirs}), schedule={"e": {**ours, "override": True}}) == []
        assert "celery_beat_schedule_policy: replace" in found[0]
    # With this policy, the inventory's schedule is meant to be the whole one.
    assert refused(note({"e": theirs}), schedule={"e": ours}, policy="replace") == []


def test_an_override_without_an_entry_is_refused() -> None:
    ours = {"nightli": {"task": "app.y", "interval": 5, "override": True}}
    (words,) = refused(note({"nightly": entry()}), schedule=ours)
    assert words.endswith("no entry of this name. Did you mean nightly?")
    assert refused(note(), schedule=ours)[0].endswith("Remove override.")
    # A release of an older version does not list the entries of its code.
    assert refused('{"tasks": ["app.y"]}', schedule=ours) == []


def test_entries_are_refused_if_the_schedule_is_left_to_the_code() -> None:
    ours = {"mine": {"task": "app.y", "interval": 5}}
    (words,) = refused(note({"e": entry()}), schedule=ours, policy="refuse")
    assert words.startswith(
        "celery_beat_schedule has entries (mine), while celery_beat_schedule_policy is refuse"
    )
    assert refused(note({"e": entry()}), policy="refuse") == []


def test_a_replaced_schedule_need_not_be_served() -> None:
    code = {"e": entry("shop.gone", goes_to="nobody", fixed=True)}
    assert len(refused(note(code))) == 1
    assert refused(note(code), policy="replace") == []


@pytest.mark.parametrize(
    ("application", "settings", "refusing"),
    [
        ({"task_always_eager": True}, {}, True),
        ({"task_always_eager": True}, {"task_always_eager": False}, False),
        ({"task_always_eager": False}, {"task_always_eager": True}, True),
        ({}, {}, False),
    ],
)
def test_an_eager_application_is_refused(
    application: dict[str, Any], settings: dict[str, Any], refusing: bool
) -> None:
    found = refused(note(**application), settings=settings)
    assert [("task_always_eager is on" in words) for words in found] == [True] * refusing


def test_the_entries_that_beat_must_have() -> None:
    ours = {"a": {"task": "t"}, "off": {"enabled": False}}
    assert names_expected(["b", "off"], ours, "add") == ({"a"}, {"b"})
    assert names_expected(["b"], ours, "replace") == ({"a"}, set())
    assert names_expected(["b", "off"], {}, "refuse") == (set(), {"b", "off"})


CUSTOM = entry(custom="shop.Moon 'full'")


@pytest.mark.parametrize(
    ("code", "told", "expected"),
    [
        ({}, {"no_database": "there is no Django"}, ["of release r1 there is no Django"]),
        ({"e": CUSTOM}, {}, ["entry e has a schedule of its own class (shop.Moon 'full')"]),
        ({"e": entry(relative=True)}, {}, ["entry e has a relative interval"]),
        ({"e": entry(options={"compression": "gzip"})}, {}, ["entry e has an option compression"]),
        ({"e": entry(options={"priority": 1, "expires": 9})}, {}, []),
        # A note from before the check asked about the database.
        ({}, {}, []),
        ({}, {"no_database": ""}, []),
    ],
)
def test_entries_that_a_database_cannot_hold_are_refused(
    code: dict[str, Any], told: dict[str, Any], expected: list[str]
) -> None:
    found = refused(note(code, **told), scheduler="database")
    assert len(found) == len(expected)
    for words, part in zip(found, expected, strict=True):
        assert part in words
    assert refused(note(code, **told), scheduler="persistent") == []
    off = {name: {"enabled": False} for name in code}
    assert len(refused(note(code, **told), scheduler="database", schedule=off)) == (
        1 if told.get("no_database") else 0
    )


def test_entries_that_redbeat_cannot_hold_are_refused() -> None:
    code = {
        "e": CUSTOM,
        "s": entry(interval=None, solar={"event": "sunset", "latitude": 1, "longitude": 2}),
    }
    found = refused(note(code), scheduler="redbeat")
    assert [words.count("celery-redbeat can't store") for words in found] == [1, 1]
    assert refused(note({"e": entry()}), scheduler="redbeat") == []


@pytest.mark.parametrize("told", [{}, {"no_solar": ""}, {"no_solar": "there is no ephem"}])
def test_a_solar_entry_of_the_inventory_needs_its_package(told: dict[str, Any]) -> None:
    """Without it beat would not start."""
    sun = {"event": "sunset", "latitude": 48, "longitude": 16}
    found = refused(note({}, **told), schedule={"evening": {"task": "shop.add", "solar": sun}})
    found = [words for words in found if "solar" in words]
    assert len(found) == bool(told.get("no_solar"))
    assert all("(evening)" in words and "celery[solar]" in words for words in found)


@pytest.mark.parametrize("told", [{}, {"no_redbeat": ""}, {"no_redbeat": "there is no redbeat"}])
def test_a_release_without_redbeat_is_refused_only_if_its_schedule_needs_it(
    told: dict[str, Any],
) -> None:
    wanted = ["of release r1 there is no redbeat"] if told.get("no_redbeat") else []
    found = refused(note({}, **told), scheduler="redbeat")
    assert len(found) == len(wanted)
    assert all(part in words for words, part in zip(found, wanted, strict=True))
    assert refused(note({}, **told), scheduler="persistent") == []
    assert refused(note({}, **told), scheduler="database") == []


@pytest.mark.parametrize(
    ("host", "packages", "works"),
    [
        ("python3.13", "python3.13", True),
        ("python3.13", "python3.11", False),
        ("python3.9", "python3.13", False),
        # A file with another name says nothing about its version.
        ("python3", "python3.11", True),
        ("python3.13-dbg", "python3.13", True),
        ("pypy3.11", "pypy3.11", True),
        ("", "python3.13", False),
    ],
)
def test_a_virtualenv_that_the_hosts_python_does_not_work_with(
    tmp_path: Path, host: str, packages: str, works: bool
) -> None:
    release = tmp_path / "it's r1"
    (release / "venv/bin").mkdir(parents=True)
    (release / "venv/lib" / packages).mkdir(parents=True)
    # As in Debian: python3 is a link to the current version.
    if host:
        (tmp_path / host).touch(mode=0o755)
        (tmp_path / "system").symlink_to(host)
    (release / "venv/bin/python").symlink_to("python3")
    (release / "venv/bin/python3").symlink_to(tmp_path / "system")
    assert (built(str(release)), again(str(release)), told(release)) == (False, "", "")
    (release / "release.json").write_text("{}")
    assert built(str(release)) is works
    assert bool(outlived(str(release))) is bool(again(str(release))) is not works
    assert told(release) == ("{}" if works else "")


def told(release: Path) -> str:
    """Return the answer of the command that looks for a release before anything is sent to its host."""
    done = subprocess.run(
        ["/bin/sh", "-c", release_note(str(release))],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    return done.stdout
