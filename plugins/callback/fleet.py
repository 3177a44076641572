"""Callback plugin `fleet`: Ansible's own output, with each refusal once.

Ansible prints the text of a failure as `[ERROR]` and as `fatal`, for each host. Ours are long, and the same for all.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet
type: stdout
short_description: Ansible's own output, with each refusal once
description:
  - The same as P(ansible.builtin.default#callback), but a failure of Celery Fleet's own tasks is printed once, not
    twice for each host.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

from pathlib import Path
from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default

PLUGINS = Path(__file__).resolve().parents[1]
OURS = {
    f"celery_fleet.core.{path.stem}"
    for kind in ("action", "modules")
    for path in (PLUGINS / kind).glob("*.py")
}
# What our roles refuse by.
REFUSING = OURS | {
    f"{prefix}{name}" for name in ("assert", "fail") for prefix in ("", "ansible.builtin.")
}


class CallbackModule(Default):
    """Differs in failed tasks only."""

    CALLBACK_NAME = "fleet"

    def __init__(self) -> None:
        """Begin with nothing printed."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ansible's own
        self._printed: dict[tuple[str, str], str] = {}

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
