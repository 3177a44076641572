"""Checks environments for values that YAML changes: a process would get 493 for 0755, and true for yes."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping

from ansible_collections.celery_fleet.core.plugins.module_utils.environment_file import (
    environment_text,
)

from ..model import written
from ..model.inventory import UNITS, Model, Problem, Severity, as_mapping, dotted

Path = tuple[str, ...]


def check_texts(model: Model) -> Iterator[Problem]:
    """Warn about each value that has another text in the process than in the file."""
    for host in model.hosts:
        for path, environment in _environments(model.raw.get(host, {})):
            for name, value in environment.items():
                # A string stays as it is, and null is meant to be empty.
                if not isinstance(value, (bool, int, float, dt.date)):
                    continue
                text, result = written.text_of(name), environment_text(value)
                if text not in (None, result):
                    yield _problem(
                        model, host, (*path, str.__str__(name)), str(text), value, result
                    )


def _problem(model: Model, host: str, path: Path, text: str, value: object, result: str) -> Problem:
    hidden = model.specs.is_secret(path)
    remedy = "put it in quotes" if hidden else f"put it in quotes ({path[-1]}: {json.dumps(text)})"
    # Without quotes YAML would change that date again.
    if not hidden and not isinstance(value, dt.date):
        remedy += f", or write {result} if you mean that"
    return Problem(
        dotted(path),
        f"is not a string in YAML, so processes get {'another text' if hidden else result}",
        remedy,
        value="" if hidden else text,
        hosts=(host,),
        severity=Severity.WARNING,
    )


def _environments(variables: Mapping[str, object]) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield each environment of a host with its path, as the inventory gives it."""
    for variable in ("celery_app_env", "celery_app_secret_env"):
        yield (variable,), as_mapping(variables.get(variable))
    for variable in ("celery_worker_defaults", *UNITS):
        options = as_mapping(variables.get(variable))
        yield (variable, "environment"), as_mapping(options.get("environment"))
    for name, worker in as_mapping(variables.get("celery_worker_instances")).items():
        path = ("celery_worker_instances", name, "environment")
        yield path, as_mapping(as_mapping(worker).get("environment"))
    for name, parts in as_mapping(variables.get("celery_app_env_urls")).items():
        yield ("celery_app_env_urls", name), as_mapping(parts)
        query = as_mapping(as_mapping(parts).get("query"))
        yield ("celery_app_env_urls", name, "query"), query
