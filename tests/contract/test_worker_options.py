"""The table of a worker's options: Celery has its flags, systemd its directives, and the plan names both.

Each flag of `celery worker` also has an option.
`test_options.py` checks that each option has an effect, `test_reference.py` that the files made from the table are up
to date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reasons import (
    ARGUMENTS,
    DROP_IN,
    explain,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import unit_options, workers
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import (
    Option,
    directives,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.worker_options import (
    WORKER,
)
from celery.bin.worker import worker

from tests import systemd

ROOT = Path(__file__).resolve().parents[2]
TABLE = "plugins/plugin_utils/desired/worker_options.py"
FLAGS = [option for option in WORKER if option.flag]
DIRECTIVES = [option for option in WORKER if option.directive]
# Flags that the fleet sets itself, or that systemd replaces.
OURS = {
    "--hostname",
    "--queues",
    "--detach",
    "--pidfile",
    "--logfile",
    "--uid",
    "--gid",
    "--umask",
    "--executable",
    # The option `autoscale` is the fleet's own; what Celery's flag does, celery_fleet.worker.scaling does instead.
    "--autoscale",
    # Beat inside a worker: with two workers every entry would be sent twice.
    "--beat",
    "--schedule-filename",
    "--schedule",
    "--scheduler",
    "--help",
}


def flags() -> list[str]:
    """Return the flags of the installed `celery worker`: each option's long flag, or else its short one."""
    found = []
    for option in worker.params:
        long = [name for name in option.opts if name.startswith("--")]
        found += long[:1] or option.opts[:1]
    return [flag for flag in found if flag not in OURS]


def test_the_search_finds_celerys_flags() -> None:
    assert len(flags()) > 15


@pytest.mark.parametrize("flag", flags())
def test_each_flag_has_an_option(flag: str) -> None:
    ours = {option.flag for option in WORKER}
    # Celery only knows the scheduling of tasks as -O.
    names = {flag, "-O"} if flag in ("--optimization", "-O") else {flag}
    assert names & ours, f"`celery worker` has {flag}: add an option with this flag to {TABLE}"


@pytest.mark.parametrize("option", FLAGS, ids=lambda option: option.name)
def test_celery_has_the_flag(option: Option) -> None:
    known = {flag for parameter in worker.params for flag in parameter.opts}
    assert option.flag in known, (
        f"`celery worker` has no {option.flag}; correct the flag of {option.name} in {TABLE}"
    )


@pytest.mark.parametrize("option", FLAGS, ids=lambda option: option.name)
def test_the_plan_names_the_option_of_a_flag(option: Option) -> None:
    def command(**options: Any) -> str:
        given = {"queues": ["a"], "loglevel": None, **options}
        return workers.worker_command("app.celery", "a@h1", given)

    value = ["x"] if option.kind == "list" else "x"
    assert explain(ARGUMENTS, command(), command(**{option.name: value})) == [
        f"{option.name} → x"
    ], (
        f"the plan would not say that {option.name} differs: name the option after its flag {option.flag}, "
        "with underscores, such as time_limit for --time-limit"
    )


def samples(option: Option) -> list[Any]:
    """Return values that preflight accepts for an option; those at the ends of a range if it has one."""
    if option.kind == "bool":
        return [False, True]
    if option.kind == "list":
        return [["/srv/a", "/srv/b"]]
    if option.kind in ("int", "float"):
        return [end for end in (option.lowest, option.highest) if end is not None]
    texts = [text for text in re.findall(r"[\w.%]+", option.like) if option.fits(text)]
    return [*option.choices, *texts]


@pytest.mark.parametrize("option", DIRECTIVES, ids=lambda option: option.name)
def test_systemd_takes_the_directive(option: Option, tmp_path: Path) -> None:
    given = samples(option)
    assert given, (
        f"{option.name} needs a range, choices, or a syntax with examples (like) in {TABLE}"
    )
    unit = tmp_path / "one.service"
    for value in given:
        lines = [item["line"] for item in directives([option], {option.name: value})]
        unit.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *lines, ""]))
        done = systemd.analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
        against = done.stderr or (f"exit status {done.returncode}" if done.returncode else "")
        assert not against, (
            f"systemd does not take {option.name}: {value}. Correct the directive, the range or the examples in "
            f"{TABLE}. It says: {against}"
        )


@pytest.mark.parametrize("option", DIRECTIVES, ids=lambda option: option.name)
def test_the_plan_names_the_option_of_a_directive(option: Option) -> None:
    before = "[Service]\n"
    after = f"{before}# {option.name}\n{option.directive}=1\n"
    assert explain(DROP_IN, before, after) == [f"{option.name} → 1"], (
        f"the plan would not say that {option.name} differs: name the option after its directive {option.directive}, "
        "in lower case and with underscores, such as memory_max for MemoryMax"
    )


def unit_lines() -> list[dict[str, Any]]:
    """The `unit_lines` that the page for tasks names against the sandbox."""
    page = (ROOT / "docs/tasks.md").read_text()
    return [yaml.safe_load(text) for text in re.findall(r"`unit_lines: (\{[^`]*\})`", page)]


def exposure(unit: Path, lines: list[str]) -> float:
    """How much a unit may do, by `systemd-analyze security`."""
    unit.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *lines, ""]))
    done = systemd.analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    done = systemd.analyze("security", "--offline=true", "--json=short", str(unit))
    return sum(float(item["exposure"] or 0) for item in json.loads(done.stdout))


def test_the_search_finds_unit_lines() -> None:
    assert {name for lines in unit_lines() for name in lines} >= {
        "SystemCallFilter",
        "RestrictAddressFamilies",
        "RestrictSUIDSGID",
        "PrivateDevices",
    }


@pytest.mark.parametrize("given", unit_lines(), ids=str)
def test_what_the_page_for_tasks_names_loosens_the_sandbox(
    given: dict[str, Any], tmp_path: Path
) -> None:
    template = (ROOT / "templates/systemd/_service.j2").read_text()
    block = re.search(r"block sandbox %\}\n(.*?)\{% endblock", template, re.DOTALL)
    assert block
    sandbox = [line for line in block[1].splitlines() if not line.startswith("#")]
    assert not any(unit_options.RESERVED.fullmatch(name) for name in given)
    more = [item["line"] for item in unit_options.unit_lines((), {"unit_lines": given})]
    unit = tmp_path / "one.service"
    # A drop-in's lines follow those of the unit.
    assert exposure(unit, [*sandbox, *more]) > exposure(unit, sandbox)
