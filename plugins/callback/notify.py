"""Callback plugin `notify`: tells a user's program how a run has ended, if `run_notice` has told it of the start."""

from __future__ import annotations

DOCUMENTATION = r"""
name: notify
type: notification
short_description: Tell a program how a run has ended
description:
  - Runs the program of the variable C(fleet_notify) at the end of a run that changes something, with C(success),
    C(failure) or C(rollback) as C(event) in the JSON on its standard input.
requirements:
  - It must be enabled by C(callbacks_enabled) in C(ansible.cfg).
"""

from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    notice,
    release_record,
)

ACTION = "celery_fleet.core.run_notice"
HISTORY = "celery_fleet.core.release_history"


class CallbackModule(CallbackBase):
    """Collects failures, and tells of them at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "celery_fleet.core.notify"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        super().__init__()
        self._begun: dict[str, Any] | None = None
        self._failed: list[dict[str, str]] = []
        self._back = ""

    def v2_runner_on_ok(self, result: Any) -> None:
        """Remember whom to tell, and that the fleet went back to an earlier release."""
        if result.task.action == ACTION:
            self._begun = {name: result.result[name] for name in ("command", "start")}
        elif result.task.action == HISTORY and result.task.args.get("do") == "record":
            last = result.result["record"]["history"][-1]
            self._back = str(last["release"]) if last["result"] == release_record.BACK else ""

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember a failure."""
        if not ignore_errors:
            self._remember(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remember a host that can't be reached."""
        self._remember(result)

    def _remember(self, result: Any) -> None:
        hidden = result.result.get("_ansible_no_log")
        self._failed.append(
            {
                "host": result.host.get_name(),
                "task": result.task.get_name(),
                "message": "" if hidden else str(result.result.get("msg", "")),
            }
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Tell how the run has ended."""
        if self._begun is None:
            return
        # A failure that the playbook has handled is not in the statistics, but says why a release was refused.
        bad = {*stats.failures, *stats.dark}
        failed = [one for one in self._failed if self._back or one["host"] in bad]
        end = notice.ended(self._begun["start"], not bad, failed, self._back)
        trouble = notice.send(self._begun["command"], end)
        # A command may name several playbooks.
        self._begun, self._failed, self._back = None, [], ""
        if trouble:
            self._display.warning(f"fleet_notify: {trouble}")
