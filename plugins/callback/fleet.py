"""Callback plugin `fleet`: Ansible's own output, shorter.

Ansible prints the text of a failure as `[ERROR]` and as `fatal`, for each host. Ours are long, and the same for all.
Most of our plays end at once if the plan has nothing for them, so their headers would be most of a run's output.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet
type: stdout
short_description: Ansible's own output without what was skipped, and with each refusal once
description:
  - The same as P(ansible.builtin.default#callback), but a failure of Celery Fleet's own tasks is printed once, not
    twice for each host.
  - Without C(-v), it does not print hosts that skip a task, plays in which no task ran, and checks of a role's
    arguments that pass.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
options:
  display_skipped_hosts:
    description: Whether to print all of that without C(-v), too.
    default: no
"""

# What it extends is not typed.
# mypy: disable-error-code="no-untyped-call"

from pathlib import Path
from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default

PLUGINS = Path(__file__).resolve().parents[1]
OURS = {
    f"celery_fleet.core.{path.stem}"
    for kind in ("action", "modules")
    for path in (PLUGINS / kind).glob("*.py")
}


def _names(*actions: str) -> set[str]:
    return {f"{prefix}{name}" for name in actions for prefix in ("", "ansible.builtin.")}


# What our roles refuse by.
REFUSING = OURS | _names("assert", "fail")
ARGUMENTS = _names("validate_argument_spec")
# These take no time, so their header is printed with the first result. Others may take minutes, so it comes before.
QUICK = ARGUMENTS | _names(
    *("assert", "copy", "debug", "fail", "file", "find", "include_tasks", "meta", "set_fact")
)


class CallbackModule(Default):
    """Differs in failed and skipped tasks, and in plays without results."""

    CALLBACK_NAME = "fleet"

    def __init__(self) -> None:
        """Begin with nothing printed."""
        super().__init__()
        self._printed: dict[tuple[str, str], str] = {}
        self._unprinted_play: Any = None

    def set_options(self, *args: Any, **options: Any) -> None:
        """Print everything with -v."""
        super().set_options(*args, **options)
        if self._display.verbosity:
            self.set_option("display_skipped_hosts", True)

    @property
    def _is_brief(self) -> bool:
        return not self.get_option("display_skipped_hosts")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Print the play's header, or keep it for its first task."""
        self._play = self._unprinted_play = play
        if not self._is_brief:
            self._print_play()

    def _print_play(self) -> None:
        play, self._unprinted_play = self._unprinted_play, None
        if play:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Print that a play has no hosts."""
        self._print_play()
        super().v2_playbook_on_no_hosts_matched()

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        super()._task_start(task, prefix)
        # Ansible's way to hide skipped hosts hides what it waits for, too. With the strategy free it has no name here.
        waits = task.action not in QUICK and self.get_option("display_ok_hosts")
        if self._is_brief and waits and self._last_task_name:
            self._print_task_banner(task)

    def _print_task_banner(self, task: Any) -> None:
        self._print_play()
        super()._print_task_banner(task)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print a result, without -v except of a passing check of arguments."""
        if self._is_brief and result.task.action in ARGUMENTS:
            self._handle_warnings_and_exception(result)
        else:
            super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print a failure; of further hosts with the same one only the name."""
        message = result.result.get("msg")
        if (
            result.task.action in REFUSING
            and self._display.verbosity < 3
            and isinstance(message, str)
        ):
            # Else it is printed as an [ERROR], too.
            result.result.pop("exception", None)
            first = self._printed.setdefault((result.task._uuid, message), result.host.get_name())  # noqa: SLF001  # nothing public tells tasks apart
            if first != result.host.get_name():
                result.result["msg"] = f"the same as on {first}"
        super().v2_runner_on_failed(result, ignore_errors)
