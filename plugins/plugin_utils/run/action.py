"""The base of all action plugins: one frame for results, failures, scripts and modules."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.module_utils import redact
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import payload, remote


class FleetAction(ActionBase):
    """Runs `act`, which each plugin has, and returns its answer.

    Attributes:
        unanswered: What can't be done if a host gives no answer; the message begins with it.
    """

    _supports_check_mode = True
    _requires_connection = True
    unanswered = "the host can't be asked"

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what `act` answers; nothing has changed unless that says so.

        Raises:
            AnsibleActionFail: A UserError, or a host without an answer, with its message.
        """
        result = {**super().run(tmp, task_vars), "changed": False}
        try:
            return {**result, **self.act(self._task.args, task_vars or {})}
        except UserError as error:
            raise AnsibleActionFail(str(error)) from None
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"{self.unanswered}: {error}. Mend that there and run the same command again."
            ) from None

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Do the plugin's work and return its result.

        Args:
            args: Of the task.
            variables: Of the host.
        """
        raise NotImplementedError

    @functools.cached_property
    def secrets(self) -> list[str]:
        """Values that may not be shown; rendered once, since each may be a question to a password manager."""
        return payload.secrets(self._templar)

    def ask(
        self, script: str, request: Mapping[str, Any], secrets: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Run one of the scripts in `plugin_utils/scripts` on the host and return its answer.

        Args:
            script: Its name.
            request: What it reads.
            secrets: Values that may not be shown.

        Raises:
            RemoteError: It gives no answer.
        """
        command, stdin = remote.call(script, request)
        done = self._low_level_execute_command(command, in_data=stdin)
        return dict(remote.answer(done, secrets))

    def execute(
        self, module: str, args: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run one of our modules on the host; if it fails its answer holds no secret."""
        answer = self._execute_module(
            module_name=f"celery_fleet.core.{module}", module_args=dict(args), task_vars=variables
        )
        return dict(redact.clean_answer(answer, self.secrets) if answer.get("failed") else answer)
