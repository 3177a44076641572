"""Runs all checks of an inventory, in the order of their table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from .checks import (
    ansible_variables,
    certificates,
    clients,
    commands,
    connections,
    control,
    delivery,
    directories,
    environment,
    firewall,
    groups,
    health,
    interpreter,
    logs,
    monitoring,
    names,
    network,
    package_index,
    queues,
    ranges,
    redis_backup,
    redis_cluster,
    redis_service,
    renamed,
    rendering,
    replication,
    requirements,
    restarts,
    schedule,
    secrets,
    settings,
    source,
    stray_options,
    units,
    unread_files,
    values,
    visibility,
    web,
    workers,
    yaml_texts,
)
from .model import origin
from .model.inventory import Model, Problem, Severity, as_mapping
from .model.render import secrets_of
from .model.report import grouped, scrubbed

_INHERITED = re.compile(r"celery_worker_instances\.([^.\[]+)\.([a-z_]+)")
Check = Callable[[Model], Iterator[Problem]]

# In the order in which a user would fix the problems. If several checks report the same path on the same host, only the
# first report counts.
CHECKS: Final[tuple[Check, ...]] = (
    control.check_versions,
    control.check_settings,
    groups.check_groups,
    groups.check_machines,
    ansible_variables.check_local,
    ansible_variables.check_root,
    ansible_variables.check_python,
    groups.check_files,
    unread_files.check_unread,
    renamed.check_renamed,
    workers.check_celerys_autoscale,
    settings.check_misplaced,
    names.check_unknown,
    rendering.check_rendering,
    values.check_required,
    values.check_vault_tags,
    secrets.check_secrets,
    schedule.check_scheduler,
    schedule.check_schedule,
    schedule.check_size,
    schedule.check_database,
    schedule.check_policy,
    schedule.check_zone,
    commands.check_commands,
    values.check_types,
    directories.check_own_directories,
    directories.check_directories,
    names.check_hosts,
    names.check_allowed,
    names.check_application,
    environment.check_environment,
    names.check_workers_and_queues,
    workers.check_enabled,
    workers.check_limits,
    workers.check_sizes,
    workers.check_autoscale,
    units.check_units,
    visibility.check_visibility,
    visibility.check_lease,
    logs.check_logs,
    health.check_health,
    monitoring.check_thresholds,
    monitoring.check_slos,
    ranges.check_ranges,
    restarts.check_restarts,
    restarts.check_overlap,
    redis_cluster.check_cluster,
    redis_backup.check_redis_backup,
    replication.check_replication,
    connections.check_connections,
    redis_service.check_redis_service,
    settings.check_settings,
    delivery.check_promise,
    delivery.check_prefix,
    delivery.check_take,
    delivery.check_parts,
    delivery.check_numbers,
    delivery.check_rollout,
    queues.check_external,
    clients.check_clients,
    queues.check_keys,
    queues.check_exchanges,
    queues.check_default,
    queues.check_routes,
    queues.check_scheduled,
    source.check_source,
    interpreter.check_interpreter,
    interpreter.check_build_packages,
    package_index.check_package_index,
    requirements.check_versions,
    network.check_ports,
    network.check_flower_prefix,
    network.check_protected_paths,
    network.check_users,
    monitoring.check_known_exporters,
    monitoring.check_other_exporters,
    network.check_memory,
    web.check_web,
    firewall.check_firewall,
    environment.check_overruled,
    yaml_texts.check_texts,
    environment.check_secrets_in_the_clear,
    certificates.check_certificates,
)


def check(model: Model) -> list[Problem]:
    """Return all problems of an inventory, each once with all its hosts, without secrets.

    If the hosts do not exist yet, that is the only problem. The program that creates the hosts also creates the
    secrets, which other checks would report as missing.
    """
    found = list(control.check_hosts_exist(model))
    if not found:
        found, model = stray_options.remove_stray_options(model)
        reported = {(problem.variable, host) for problem in found for host in _hosts(problem)}
        for one in CHECKS:
            fresh = [
                left
                for problem in one(model)
                if (left := _unreported(_moved_to_defaults(model, problem), reported))
            ]
            reported |= {(problem.variable, host) for problem in fresh for host in _hosts(problem)}
            found += fresh
        if not any(problem.severity is Severity.ERROR for problem in found):
            # A default fails because of the variables that it uses; errors in these are enough to report.
            found += rendering.check_defaults(model)
    return scrubbed([_placed(model, problem) for problem in grouped(found)], secrets_of(model))


def _moved_to_defaults(model: Model, problem: Problem) -> Problem:
    """Return the problem; for an option that a worker inherits, it names celery_worker_defaults instead."""
    match = _INHERITED.fullmatch(problem.variable)
    if match is None:
        return problem
    name, option = match.groups()
    for host in problem.hosts or tuple(model.hosts):
        own = as_mapping(as_mapping(model.value(host, "celery_worker_instances")).get(name))
        if option in own or option not in as_mapping(model.value(host, "celery_worker_defaults")):
            return problem
    return replace(problem, variable=f"celery_worker_defaults.{option}")


def _unreported(problem: Problem, reported: set[tuple[str, str]]) -> Problem | None:
    """Return the problem with only the hosts for which it is new; None if there are none."""
    hosts = tuple(host for host in _hosts(problem) if (problem.variable, host) not in reported)
    if not hosts:
        return None
    return replace(problem, hosts=hosts if problem.hosts else ())


def _placed(model: Model, problem: Problem) -> Problem:
    """Return the problem with its places in the inventory's files."""
    found = (
        origin.find(model.raw.get(host, {}), problem.variable)
        for host in problem.hosts or tuple(model.hosts)
    )
    base = model.control.base_dir
    places = dict.fromkeys(origin.shown(place, base) for place in found if place is not None)
    return replace(problem, places=tuple(places))


def _hosts(problem: Problem) -> tuple[str, ...]:
    return problem.hosts or ("",)
