"""Refuses old names of variables and options, because they would have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ..model.inventory import Model, Problem, as_list, as_mapping, dotted

# docs/upgrading.md has the same table.
VARIABLES: Final = {
    "celery_app_directory": "celery_app_config_directory",
    "celery_app_owner": "celery_app_inventory_name",
    "celery_app_state": "celery_app_state_directory",
    "celery_app_urls": "celery_app_env_urls",
    "celery_beat_schedule_edited": "celery_beat_schedule_on_edit",
    "celery_restart_only": "celery_restart_workers",
    "celery_worker_carry": "celery_worker_keep_tasks_on_reconnect",
    "celery_worker_dead_letters_keep": "celery_worker_max_dead_letters",
    "celery_worker_enabled": "celery_worker_host_instances",
    "celery_worker_failed_keep": "celery_worker_max_failed_dead_letters",
    "celery_worker_hand_back": "celery_worker_requeue_on_crash",
    "celery_worker_outage": "celery_worker_outage_guard",
    "celery_worker_poison_deaths": "celery_worker_max_crashes_per_task",
    "celery_worker_take": "celery_worker_fetch",
    "celery_worker_unknown_delay": "celery_worker_unknown_task_retry_delay",
    "celery_worker_unknown_for": "celery_worker_unknown_task_retention",
    "fleet_needrestart": "fleet_block_needrestart",
    "fleet_remove_discard": "fleet_remove_discard_messages",
    "fleet_remove_missing": "fleet_remove_ignore_unreachable",
    "pki_names": "pki_subject_alt_names",
}
# Options of a worker, and of a command in celery_release_commands.
WORKER: Final = {"take": "fetch"}
COMMAND: Final = {"on": "hosts"}


def told(names: Iterable[str]) -> list[str]:
    """Return a message for each old name among these variables."""
    return [f"{name} is called {VARIABLES[name]} now" for name in names if name in VARIABLES]


def check_renamed(model: Model) -> Iterator[Problem]:
    """Refuse old names; `preflight_allowed_variables` can't allow them."""
    for name, hosts in model.given_names.items():
        if name in VARIABLES:
            yield _problem(name, VARIABLES[name], hosts)
    for path, options, hosts in _options(model):
        for old in options.keys() & WORKER.keys():
            yield _problem(dotted((*path, old)), WORKER[old], hosts)
    for value, hosts in model.distinct("celery_release_commands"):
        for index, command in enumerate(as_list(value)):
            # YAML 1.1 reads the key `on` as true.
            keys = command if isinstance(command, Mapping) else ()
            for old in {"on" if key is True else key for key in keys} & COMMAND.keys():
                place = dotted(("celery_release_commands", index, old))
                yield _problem(place, COMMAND[old], hosts)


def _options(
    model: Model,
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object], tuple[str, ...]]]:
    """Yield each option of a worker as it is written: its path, its name, and the hosts that have it."""
    for value, hosts in model.distinct_given("celery_worker_defaults"):
        yield ("celery_worker_defaults",), as_mapping(value), hosts
    for value, hosts in model.distinct_given("celery_worker_instances"):
        for name, options in as_mapping(value).items():
            yield ("celery_worker_instances", name), as_mapping(options), hosts


def _problem(place: str, new: str, hosts: tuple[str, ...]) -> Problem:
    return Problem(place, f"is called {new} now", f"rename it to {new}", hosts=hosts)
