"""Action plugin `fleet_serving`: waits, bounded in time, until the services of a host serve, and says what does not.

It does not fail by itself, so that `fleet_report` can name all hosts' troubles at once.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import payload, remote


class ActionModule(ActionBase):
    """Runs one small script on the host; see `run/remote.py`."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """States of the units, and `errors` by name."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        command, stdin = remote.serving(
            units=args.get("units", []),
            https=args.get("https", []),
            journals=args.get("journals", []),
            schedule=str(args.get("schedule", "")),
            release=str(args.get("release", "")),
            # On a host where nothing was settled yet, a dry run has nothing to wait for.
            timeout=0 if self._task.check_mode else float(args["timeout"]),
        )
        answer = self._low_level_execute_command(command, in_data=stdin)
        try:
            result.update(remote.answer(answer, payload.secrets(self._templar)), changed=False)
        except remote.RemoteError as error:
            result.update(failed=True, msg=f"the services can't be looked at: {error}")
        return result
