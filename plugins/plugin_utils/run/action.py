"""The base class of all action plugins: handles results, failures, scripts and modules."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.module_utils import redact
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from ..desired.groups import fleet_groups
from . import host_scripts, rendering


class FleetAction(ActionBase):
    """Runs the plugin's `act` and returns its result.

    Attributes:
        unanswered: Beginning of the error message if a host does not answer.
    """

    _supports_check_mode = True
    _requires_connection = True
    unanswered = "the host can't be asked"

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the result of `act`; `changed` is false unless that sets it.

        Raises:
            AnsibleActionFail: `act` raised a UserError, or the host did not answer.
        """
        result = {**super().run(tmp, task_vars), "changed": False}
        try:
            with rendering.compiled_once():
                return {**result, **self.act(self._task.args, task_vars or {})}
        except UserError as error:
            # It may quote what a host or an application has said.
            raise AnsibleActionFail(redact.printable(str(error))) from None
        except host_scripts.RemoteError as error:
            raise AnsibleActionFail(
                f"{self.unanswered}: {error}. Fix that there and run the same command again."
            ) from None

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Do the plugin's work and return its result.

        Args:
            args: Arguments of the task.
            variables: Variables of the host.
        """
        raise NotImplementedError

    @functools.cached_property
    def secrets(self) -> list[str]:
        """Return values that may not be shown. They are rendered once, as each may query a password manager."""
        return rendering.secrets(self._templar)

    def groups(self, variables: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the hosts of the fleet's groups by the names that Celery Fleet uses."""
        given = variables.get("fleet_groups")
        return fleet_groups(variables["groups"], given and self._templar.template(given))

    def ask(
        self, script: str, request: Mapping[str, Any], secrets: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Run one of the scripts in `plugin_utils/scripts` on the host and return its answer.

        Args:
            script: Name of the script.
            request: Its input.
            secrets: Values that may not be shown.

        Raises:
            RemoteError: The script gave no answer.
        """
        command, stdin = host_scripts.call(script, request)
        done = self._low_level_execute_command(command, in_data=stdin)
        return dict(host_scripts.answer(done, secrets))

    def ask_probe(self, command: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run `celery_fleet.ops.probe` on the host and return its answer.

        Args:
            command: From `host_scripts.probe` or `host_scripts.deployed_probe`.
            request: Its input, with the operator's `settings`.

        Raises:
            RemoteError: The probe gave no answer.
        """
        done = self._low_level_execute_command(
            host_scripts.with_identity(command, request["settings"]),
            in_data=json.dumps(request, default=str).encode(),
        )
        return host_scripts.finding(done, self.secrets)

    def execute(
        self, module: str, args: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run one of our modules on the host; if it fails, its answer contains no secret."""
        answer = redact.printable(
            self._execute_module(
                module_name=f"celery_fleet.core.{module}",
                module_args=dict(args),
                task_vars=variables,
            )
        )
        return dict(redact.clean_answer(answer, self.secrets) if answer.get("failed") else answer)
