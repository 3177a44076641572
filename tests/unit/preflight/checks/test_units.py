"""Mistakes in the options of a unit are refused for each process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, valid

ERRORS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"memory_max": "512MB"}, "memory_max", "not a value that systemd", "did you mean 512M?"),
    ({"memory_max": "512"}, "memory_max", "less than a process of Celery", "512M?"),
    ({"memory_max": "1G", "memory_high": "2G"}, "memory_high", "above memory_max", "less than"),
    ({"nice": 20}, "nice", "above 19", "-20 to 19"),
    ({"umask": "27"}, "umask", "not a value that systemd", "0027"),
    ({"umask": "0o27"}, "umask", "not a value that systemd", "0027"),
    ({"read_write_paths": ["srv/a"]}, "read_write_paths[0]", "not an absolute path", "with /"),
    ({"read_write_paths": ["/home/admin/media"]}, "read_write_paths[0]", "have ProtectHome=", "/srv/shop/media"),
    ({"read_write_paths": ["/srv", "-/run/user/../user/7"]}, "read_write_paths[1]", "below /run/user",
     "/srv/shop/media"),
    ({"read_write_paths": ["/var/tmp"], "unit_lines": {"ProtectHome": False}}, "read_write_paths[0]",
     "have PrivateTmp=", "own /tmp and /var/tmp"),
    ({"read_write_paths": ["/root"], "unit_lines": {"ProtectHome": ["no", "yes"]}}, "read_write_paths[0]",
     "below /root", "/srv/shop/media"),
    ({"requires_mounts_for": ["-/srv"]}, "requires_mounts_for[0]", "not an absolute", "with /"),
    ({"requires_mounts_for": ['/"']}, "requires_mounts_for[0]", "quotation mark", "rename"),
    ({"environment": {"PYTHONPATH": "/x"}}, "environment.PYTHONPATH", "has no effect", "source.dir"),
    ({"unit_lines": {"ExecStart": "/bin/sh"}}, "unit_lines.ExecStart", "sets itself", "drop-in"),
    ({"unit_lines": {"User": "root"}}, "unit_lines.User", "sets itself", "remove it"),
    ({"unit_lines": {"EnvironmentFile": "/x"}}, "unit_lines.EnvironmentFile", "itself", "remove it"),
    ({"unit_lines": {"MemoryMax": "1G"}}, "unit_lines.MemoryMax", "option sets", "write memory_max"),
    ({"unit_lines": {"limit": 1}}, "unit_lines.limit", "name of a directive", "LimitNOFILE"),
    ({"unit_lines": {"LimitNOFILE": {}}}, "unit_lines.LimitNOFILE", "a mapping", "one value"),
    ({"unit_lines": {"LimitNOFILE": "1\nUser=root"}}, "unit_lines.LimitNOFILE", "one line", "one line"),
    ({"unit_lines": {"LimitNOFILE": "1\\"}}, "unit_lines.LimitNOFILE", "not one line", "in one line"),
]  # fmt: skip
VARIABLES = ("celery_producer_web", "celery_beat_unit", "flower_unit")


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    return valid(tmp_path / "source")


@pytest.mark.parametrize(("options", "name", "message", "remedy"), ERRORS, ids=str)
def test_a_mistake_is_refused(
    variables: dict[str, Any], options: dict[str, Any], name: str, message: str, remedy: str
) -> None:
    for variable in VARIABLES:
        variables[variable] = {**variables.get(variable, {}), **options}
    variables["celery_worker_instances"]["discounts"] = options
    found = problems(variables)
    below = ("celery_worker_instances.discounts", *VARIABLES)
    assert {problem.variable for problem in found} == {f"{one}.{name}" for one in below}
    for problem in found:
        assert message in problem.message
        assert remedy in problem.remedy


def test_a_directive_that_only_workers_have_an_option_for(variables: dict[str, Any]) -> None:
    given = {"unit_lines": {"WatchdogSec": 60}}
    variables["celery_worker_instances"]["discounts"] = given
    variables["celery_beat_unit"] = given
    found = {problem.variable.partition(".")[0]: problem.remedy for problem in problems(variables)}
    assert found["celery_worker_instances"] == "write watchdog_sec beside unit_lines"
    assert found["celery_beat_unit"].startswith("remove it")


def test_a_misspelt_option_is_refused(variables: dict[str, Any]) -> None:
    variables["celery_beat_unit"] = {"memory": "1G"}
    (found,) = problems(variables)
    assert (found.variable, found.message) == ("celery_beat_unit.memory", "is not a known key")


def test_paths_are_visible_if_a_unit_switches_off_what_hides_them(
    variables: dict[str, Any],
) -> None:
    variables["celery_beat_unit"] = {
        "read_write_paths": ["/home/admin/media", "/tmp/shared"],
        "unit_lines": {"ProtectHome": "read-only", "PrivateTmp": False},
    }
    # These begin with the same letters, and are not hidden.
    variables["flower_unit"] = {"read_write_paths": ["/homes/shop", "/var/tmpfiles", "/run/shop"]}
    assert problems(variables) == []
