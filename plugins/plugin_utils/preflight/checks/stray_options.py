"""Refuses options of a worker that are directly in `celery_worker_instances` instead of in a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..model.inventory import Model, Problem, as_mapping

VARIABLE: Final = "celery_worker_instances"
_ENABLED: Final = "celery_worker_host_instances"


def remove_stray_options(model: Model) -> tuple[list[Problem], Model]:
    """Return one problem for all such options of a host, and the model without them.

    The other checks would mistake each option for a worker and report it.
    """
    problems: list[Problem] = []
    cleaned = dict(model.hosts)
    for value, hosts in model.distinct_given(VARIABLE):
        stray = _stray(model, as_mapping(value))
        if not stray:
            continue
        problems.append(
            Problem(
                VARIABLE,
                f"has options of a worker ({', '.join(stray)}) instead of names of workers",
                "write the worker's name, and its options below that: "
                f"`{VARIABLE}: {{default: {{concurrency: 4, queues: [celery]}}}}`. Options that all workers share "
                "belong in celery_worker_defaults",
                hosts=hosts,
            )
        )
        for host in hosts:
            variables = cleaned[host] = dict(cleaned[host])
            workers = {key: item for key, item in as_mapping(value).items() if key not in stray}
            if workers:
                variables[VARIABLE] = workers
            else:
                del variables[VARIABLE]
            # By default it lists all keys.
            enabled = variables.get(_ENABLED)
            if isinstance(enabled, list):
                variables[_ENABLED] = [name for name in enabled if name not in stray]
    return problems, replace(model, hosts=cleaned, _distinct={}) if problems else model


def _stray(model: Model, instances: Mapping[str, object]) -> list[str]:
    """Return the keys that are options; a mapping may be a worker unless other options are beside it."""
    options = model.specs.element_options(VARIABLE)
    certain = [
        key for key, item in instances.items() if key in options and not isinstance(item, Mapping)
    ]
    if not certain:
        return []
    return [
        key for key in instances if key in certain or options.get(key, {}).get("type") == "dict"
    ]
