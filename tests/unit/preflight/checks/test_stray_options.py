"""Options of a worker that are in the place of workers' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, valid

VARIABLE = "celery_worker_instances"
FORM = "celery_worker_instances: {default: {concurrency: 4, queues: [celery]}}"


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"concurrency": 4, "queues": ["a"]}, "(concurrency, queues)"),
        ({"concurrency": "{{ cores }}"}, "(concurrency)"),
        ({"time_limit": None, "environment": {"A": "b"}}, "(time_limit, environment)"),
    ],
)
def test_options_without_a_worker_are_one_mistake(
    tmp_path: Path, given: dict[str, Any], options: str
) -> None:
    variables = {**valid(tmp_path), VARIABLE: given, "cores": 4}
    found = problems(variables, {"worker1": {"celery_worker_host_instances": ["discounts"]}})
    assert [(one.variable, options in one.message, FORM in one.remedy) for one in found] == [
        (VARIABLE, True, True)
    ]


def test_workers_beside_them_are_checked(tmp_path: Path) -> None:
    variables = valid(tmp_path)
    variables[VARIABLE] |= {"concurrency": 4, "small": {"concurrency": 0}}
    found = [one.variable for one in problems(variables)]
    assert found == [VARIABLE, f"{VARIABLE}.small.concurrency"]


def test_a_worker_may_have_the_name_of_an_option(tmp_path: Path) -> None:
    variables = valid(tmp_path)
    variables[VARIABLE] |= {"queues": {"concurrency": 1}, "environment": {"queues": ["celery"]}}
    assert problems(variables) == []
