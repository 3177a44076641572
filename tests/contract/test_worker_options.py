"""The table of a worker's options: Celery has its flags, systemd its directives, and the plan names both.

Each flag of `celery worker` also has an option.
`test_options.py` checks that each option has an effect, `test_reference.py` that the files made from the table are up
to date.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reasons import (
    ARGUMENTS,
    DROP_IN,
    explain,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import workers
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import (
    Option,
    directives,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.worker_options import (
    WORKER,
)
from celery.bin.worker import worker

from tests import systemd

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
        return [end for end in (option.lowest, option.highest) if end is not None] or [1]
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
        head = ["[Service]", "ExecStart=/bin/true", f"[{option.section}]"]
        unit.write_text("\n".join([*head, *lines, ""]))
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
