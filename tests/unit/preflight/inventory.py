"""A small valid inventory, which each test changes, and the model that preflight makes of it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.groups import (
    group_names,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import render
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Control,
    Model,
    Problem,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.specs import (
    Specs,
    parse_role,
    read_defaults,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.run import check

ROOT = Path(__file__).resolve().parents[3]
GROUPS = {
    "all": ["redis1", "worker1", "worker2", "control1"],
    "fleet": ["redis1", "worker1", "worker2", "control1"],
    "redis": ["redis1"],
    "celery_workers": ["worker1", "worker2"],
    "celery_beat": ["control1"],
    "celery_producers": ["control1"],
    "flower": ["control1"],
}


def secret(number: int) -> str:
    return f"n0t-a-real-secret-{number:02}"


def valid(source: Path) -> dict[str, Any]:
    """Return variables of all hosts; write the files of an application to `source`."""
    (source / "app").mkdir(parents=True, exist_ok=True)
    (source / "app/celery_app.py").touch()
    (source / "requirements.txt").touch()
    users = ("worker", "beat", "producer", "flower", "operator", "admin")
    return {
        "celery_app_name": "shop",
        "celery_app_module": "app.celery_app",
        "celery_app_source": {"path": str(source)},
        "celery_app_env": {"DEBUG": "0"},
        "celery_app_secret_env": {"DATABASE_URL": "postgresql://u:p@db/shop"},
        "celery_app_env_urls": {
            "OTHER_URL": {"scheme": "https", "host": "h", "password": secret(20)}
        },
        "celery_app_task_routes": {"app.tasks.recompute_*": {"queue": "discounts"}},
        "celery_worker_instances": {
            "discounts": {"concurrency": 4, "time_limit": 1800, "soft_time_limit": 1500},
            "maintenance": {"queues": ["maintenance"]},
            "analytics": {"memory_max": "1G"},
        },
        "celery_beat_schedule": {
            "recompute": {"task": "app.tasks.recompute_all", "crontab": {"minute": 0}},
            "clean": {
                "task": "app.tasks.clean",
                "crontab": {"minute": "0", "hour": 2},
                "queue": "maintenance",
            },
            "history": {"task": "app.tasks.history", "interval": 3600, "queue": "analytics"},
        },
        "redis_passwords": {user: secret(number) for number, user in enumerate(users)},
        "pki_ca_passphrase": secret(10),
        "flower_auth_password": secret(11),
        "flower_cookie_secret": secret(12),
        "celery_producer_web": {
            "command": ["python", "-m", "uvicorn", "app.main:app", "--fd", "3"]
        },
        "celery_producer_web_protected_paths": ["/admin/"],
        "celery_producer_web_auth_password": secret(13),
    }


@functools.cache
def specs() -> Specs:
    """Return the delivered roles' own specs and defaults."""
    loader = DataLoader()
    roles = {}
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        role = path.parents[1]
        roles[role.name] = parse_role(
            role.name,
            loader.load_from_file(str(path)),
            read_defaults(
                role, lambda file: loader.load_from_file(str(file), trusted_as_template=True)
            ),
            str(role),
        )
    return Specs(roles)


@dataclass
class _Kept(render._Shared):
    """Keeps rendered values for all inventories of the process: most tests change one variable of the same inventory.

    A key need not tell groups and `hostvars` of one inventory from another's, as an inventory's hosts share them; here
    it must. `hostvars` has the host's own variables, so only which of the named ones it has is new.
    """

    named: set[str] = field(default_factory=set)

    def key(self, raw: object, variables: Mapping[str, Any]) -> tuple[object, ...] | None:
        self.named = set()
        key = super().key(raw, variables)
        if key is None:
            return None
        groups = repr(variables["groups"]) if "groups" in self.named else ""
        own = variables["hostvars"][variables["inventory_hostname"]]
        return (*key, groups, "hostvars" in self.named and frozenset(self.named & own.keys()))

    def _words(self, raw: object) -> frozenset[str]:
        words = super()._words(raw)
        self.named |= words
        return words


_KEPT = _Kept()
# Variables of all inventories by what they are: equal ones are one object, so that `_Kept` finds what they lead to.
_SAME: dict[str, Any] = {}


def model(
    everywhere: Mapping[Any, Any],
    hosts: Mapping[str, Mapping[str, Any]] | None = None,
    groups: Mapping[str, list[str]] | None = None,
    control: Control | None = None,
) -> Model:
    """Return the model of variables for all hosts and for single ones."""
    own = hosts or {}
    # All hosts share the same objects, as with Ansible.
    shared = _same(everywhere)
    members = GROUPS if groups is None else groups

    def variables(host: str) -> dict[str, object]:
        magic = {"inventory_hostname": host, "groups": dict(members), "inventory_dir": "/inventory"}
        mine = {**shared, **_same(own.get(host, {}))}
        return {**magic, **mine, "hostvars": {host: mine}}

    def renderer(available: dict[str, object]) -> Any:
        return Templar(loader=DataLoader(), variables=available).template

    with mock.patch.object(render, "_Shared", return_value=_KEPT):
        return render.build(
            specs(),
            members,
            variables,
            renderer,
            control or Control("2.19.14", "3.11.2", ROOT),
            group_names(shared.get("fleet_groups")),
        )


def _same(variables: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        trusted(name): _SAME.setdefault(repr(value), trusted(value))
        if _is_plain(value)
        else trusted(value)
        for name, value in variables.items()
    }


def _is_plain(value: object) -> bool:
    """Return whether a value has none of Ansible's tags, such as the place in a file that it comes from."""
    if isinstance(value, (dict, list)):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return type(value) in (dict, list) and all(map(_is_plain, items))
    return type(value).__module__ == "builtins"


def problems(*args: Any, **kwargs: Any) -> list[Problem]:
    return check(model(*args, **kwargs))


def changed(variables: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the variables with the value at a path such as `a/b/c` replaced."""
    result = copy.deepcopy(dict(variables))
    inner: Any = result
    *way, last = path.split("/")
    for part in way:
        inner = inner[part]
    inner[last] = value
    return result


def trusted(value: Any) -> Any:
    """Return the value as Ansible's inventory provides it: strings may be templates."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {trusted(key): trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return value
