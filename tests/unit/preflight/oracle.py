"""Find out in this process what the roles themselves would say about an inventory: specs, rendering, beat's reading.

This needs no host and no ansible-playbook. The roles' argument specs are compared with the values as Ansible's own
action does it, the delivered renderer renders everything that the plan sends to each host, and the result is read as
the reconciler reads it. What only a run knows (facts, packed releases, certificates) is supplied as it would be.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVarsVars
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import desired_state
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.groups import (
    MEMBER_GROUPS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.specs import (
    ROLE_GROUPS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import rendering
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import parts_of

from celery_fleet.config import entries as schedule
from celery_fleet.config import settings
from tests.unit.preflight.inventory import ROOT, specs, trusted

FACTS: Final[Mapping[str, Any]] = {
    "reachable": True,
    "systemd_version": 252,
    "python_version": "3.11.2",
    "packages": [],
    "processors": 2,
}
# Variables that tasks of the plan register, and options of a run.
RUN: Final[Mapping[str, Any]] = {
    "ansible_run_tags": ["all"],
    "ansible_skip_tags": [],
    "ansible_check_mode": False,
    "__celery_release_source": {"id": "0123456789abcdef", "queues": []},
    "__celery_cli_source": {"id": "0123456789abcdef"},
    "__flower_source": {"id": "0123456789abcdef"},
    "__preflight_hosts": {"missing": {}},
    "ansible_facts": {"fleet": dict(FACTS)},
    # The delivered runtime is the same for every inventory, and by far the largest part of a render.
    "__celery_app_package": {
        "directory": "/usr/lib/celery-fleet/1",
        "directories": [],
        "files": [],
        "certificate": "",
        "wrapper": "",
    },
}
# pki reads certificates that do not exist yet; its specs say what it needs from the inventory.
LEFT_OUT: Final = ("pki",)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@functools.cache
def _loader() -> DataLoader:
    return DataLoader()


@functools.cache
def _role_variables() -> dict[str, Any]:
    """Return the defaults of all roles, and below them their vars/main.yml."""
    found: dict[str, Any] = {}
    for role in specs().roles.values():
        found.update(role.defaults)
    # Roles without a spec also have defaults.
    for kind in ("defaults", "vars"):
        for path in sorted((ROOT / "roles").glob(f"*/{kind}/main.yml")):
            found.update(_loader().load_from_file(str(path), trusted_as_template=True) or {})
    return found


def refusals(
    everywhere: Mapping[Any, Any],
    hosts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
) -> list[str]:
    """Return the errors that a run would report about the inventory, after preflight has accepted it."""
    return [
        f"{host}: {text}"
        for host, scope in _scopes(everywhere, hosts, groups)
        for text in _host(scope)
    ]


def value_of(everywhere: Mapping[Any, Any], variable: str, hosts: Sequence[str]) -> Any:
    """Return a variable of the first host of a fleet in which every host is in every group."""
    groups = dict.fromkeys(("fleet", *MEMBER_GROUPS), hosts)
    _, scope = next(_scopes(everywhere, {}, groups))
    templar = Templar(loader=_loader(), variables=scope)
    return templar.template(trust_as_template("{{ " + variable + " }}"))


def wanted_by(everywhere: Mapping[Any, Any], name: str) -> Any:
    """Return what a part of the plan wants of the only host of a fleet, rendered."""
    groups = {group: ["h1"] for group in ("fleet", *MEMBER_GROUPS)}
    ((_, scope),) = _scopes(everywhere, {}, groups)
    templar = Templar(loader=_loader(), variables=scope)
    (part,) = (one for one in parts_of(scope["group_names"], ["all"], []) if one.name == name)
    value = templar.template(trust_as_template("{{ " + part.variable + " }}"))
    return rendering.Renderer(templar, _loader(), scope).wanted(value)


def _scopes(
    everywhere: Mapping[Any, Any],
    hosts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each host with the variables that a run has there."""
    given = {
        host: {
            **trusted(dict(everywhere)),
            **trusted(dict(hosts.get(host, {}))),
            "inventory_hostname": host,
            "inventory_dir": "/inventory",
            "groups": {name: list(members) for name, members in groups.items()},
            "group_names": sorted(name for name, members in groups.items() if host in members),
        }
        for host in groups["fleet"]
    }
    hostvars = {host: HostVarsVars(own, _loader(), host) for host, own in given.items()}
    for host, own in given.items():
        yield (
            host,
            {
                **{name: value for name, value in _role_variables().items() if name not in own},
                **own,
                **RUN,
                "hostvars": hostvars,
                "ansible_play_hosts": list(groups["fleet"]),
            },
        )


def _host(scope: dict[str, Any]) -> list[str]:
    found = []
    names = scope["group_names"]
    templar = Templar(loader=_loader(), variables=scope)
    for role, groups in ROLE_GROUPS.items():
        if set(groups) & set(names):
            scope["role_path"] = specs().roles[role].path
            found += [f"{role}: {text}" for text in _spec(role, scope, templar)]
    renderer = rendering.Renderer(templar, _loader(), scope)
    for part in parts_of(names, ["all"], []):
        if part.name in LEFT_OUT:
            continue
        try:
            value = templar.template(trust_as_template("{{ " + part.variable + " }}"))
            rendered = renderer.wanted(value)
            read = desired_state.parse(rendered)
        # Any error would end the run there.
        except Exception as error:  # noqa: BLE001  # see above
            found.append(f"{part.name}: {type(error).__name__}: {error}")
            continue
        for file in read.files:
            if file.content is not None and _CONTROL.search(file.content):
                found.append(f"{part.name}: {file.dest} has a control character")
    given = templar.template(trust_as_template("{{ celery_app_settings }}"))
    try:
        settings.parse_celery(_plain(given))
    except settings.FleetError as error:
        found.append(f"settings: {error}")
    if "celery_beat" in names:
        found += [f"beat: {text}" for text in _schedule(templar)]
    return found


def _spec(role: str, scope: Mapping[str, Any], templar: Templar) -> list[str]:
    """Check a spec as Ansible's own action `validate_argument_spec` does."""
    options = specs().roles[role].options
    try:
        given = templar.template({name: scope[name] for name in options if name in scope})
        result = ArgumentSpecValidator(dict(options)).validate(
            given, validate_role_argument_spec=True
        )
    except Exception as error:  # noqa: BLE001  # whatever it is would end the run there
        return [f"{type(error).__name__}: {error}"]
    return list(result.error_messages)


def _schedule(templar: Templar) -> list[str]:
    raw = templar.template(trust_as_template("{{ celery_beat_schedule }}"))
    found = []
    try:
        entries = schedule.parse_entries(yaml.safe_load(yaml.safe_dump(_plain(raw))))
    except schedule.FleetError as error:
        return [str(error)]
    for entry in entries.values():
        # Solar schedules need a package of the application.
        if entry.kind in ("crontab", "interval"):
            try:
                schedule.celery_schedule(entry)
            except schedule.FleetError as error:
                found.append(str(error))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    return str(value)
