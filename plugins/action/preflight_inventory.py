"""Action plugin `preflight_inventory`: refuses an inventory that can't become a fleet, before any host is contacted.

It takes no arguments. `plugin_utils/preflight` does all the work; this file only connects it to Ansible. Warnings are
displayed. Errors fail the task with one message that lists all of them. Neither contains a secret.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.release import __version__ as ansible_version
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.groups import (
    fleet_names,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.control import (
    SETTINGS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.capacity import (
    demands,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Control,
    Severity,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.paths import (
    base_directory,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.render import build
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.specs import (
    RoleSpec,
    Specs,
    parse_role,
    read_defaults,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.run import check
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import options_for_a_part

PLUGINS = Path(__file__).resolve().parents[1]
ROLES = PLUGINS.parent / "roles"


class ActionModule(FleetAction):
    """Runs once, for all hosts of the inventory, even with `--limit`."""

    _requires_connection = False
    _VALID_ARGS: frozenset[str] = frozenset()

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Check the inventory.

        Raises:
            AnsibleActionFail: The inventory is refused; all errors are listed with variable, hosts, value and remedy.
        """
        _require_whole(variables)
        hostvars = variables["hostvars"]

        def of_host(host: str) -> dict[str, object]:
            return {**hostvars.raw_get(host), "hostvars": hostvars}

        def renderer(available: dict[str, object]) -> Any:
            return self._templar.copy_with_new_env(available_variables=available).template

        groups = {
            str(name): [str(host) for host in hosts] for name, hosts in variables["groups"].items()
        }
        settings = {
            name: str(constants.config.get_config_value(f"DEFAULT_{name.upper()}"))
            for name in SETTINGS
        }
        control = Control(
            ansible_version,
            platform.python_version(),
            base_directory(variables.get("ansible_config_file")),
            settings,
            needs_source=not variables.get("__celery_release_goes_back"),
        )
        names = fleet_names(hostvars)
        model = build(self._specs(), groups, of_host, renderer, control, names)
        problems = check(model)
        errors = [problem for problem in problems if problem.severity is Severity.ERROR]
        warnings = [problem for problem in problems if problem.severity is Severity.WARNING]
        for problem in warnings:
            self._display.warning(report.line(problem, groups, model.hosts))
        if errors:
            title = (
                f"This inventory is refused, {count(len(errors), 'error')}. No host was contacted."
            )
            raise AnsibleActionFail(report.block(title, errors, groups, model.hosts))
        message = f"The inventory is in order: {count(len(model.hosts), 'host')}"
        # Needs of each host, to compare with its facts in the next step.
        return {"asked": demands(model), "msg": message}

    def _specs(self) -> Specs:
        return Specs(
            {role.name: role for path in sorted(ROLES.iterdir()) if (role := self._role(path))}
        )

    def _role(self, path: Path) -> RoleSpec | None:
        spec = path / "meta/argument_specs.yml"
        if not spec.is_file():
            return None

        # `unsafe` saves a deep copy, which takes as long as reading: no other code uses these objects.
        def read(file: Path, **options: bool) -> Any:
            return self._loader.load_from_file(str(file), cache="none", unsafe=True, **options)

        return parse_role(
            path.name,
            read(spec),
            read_defaults(path, lambda file: read(file, trusted_as_template=True)),
            str(path),
        )


def _require_whole(variables: dict[str, Any]) -> None:
    """Refuse a deploy, or a way back, that leaves something out: the record says for all hosts what serves.

    Raises:
        AnsibleActionFail: The run has such an option.
    """
    moves = ("__celery_release_deploys", "__celery_release_goes_back")
    options = options_for_a_part(variables) if any(map(variables.get, moves)) else []
    if options:
        raise AnsibleActionFail(
            f"Run the same command without {' and '.join(options)}: a deploy, and going back to a release, concern all "
            "hosts and everything that runs the release. No host was contacted. A host that is down is left out by "
            "itself; to leave out another one, take it out of the inventory. To check whether everything serves: "
            "ansible-playbook celery_fleet.core.site --tags verify"
        )
