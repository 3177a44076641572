#!/usr/bin/python
"""Ansible module behind the action plugin `settle`: see `fleet_control.settle`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settle
short_description: Bring files, links and systemd units of a host to the wanted state in one call
description:
  - The action plugin of the same name renders templates on the control side and calls this module once.
  - Files are written atomically with owner and mode. Where a daemon's own check refuses them, all of the call
    go back to what they were.
  - A unit is restarted where what it was started with differs from what lies on disk, whoever changed it.
options:
  payload:
    description: The wanted state as JSON, compressed and in base64. It holds secrets and is never logged.
    type: str
    required: true
  force:
    description: Whether to restart the units even where nothing differs.
    type: bool
    default: false
author: Celery Fleet
"""

EXAMPLES = r"""
- name: Settle files and units
  settle:
    files:
      - {dest: /etc/example.conf, content: "text\n"}
    units:
      - {name: example.service, files: [/etc/example.conf]}
"""

RETURN = r"""
pending:
  description: Units that have to be acted on, each with action and reason.
  returned: always
  type: list
done:
  description: Units that were acted on.
  returned: always
  type: list
"""

import base64
import json
import zlib
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fleet_control.settle import SettleError, settle
from ansible.module_utils.fleet_control.wanted import parse


def main() -> None:
    """Unpack the wanted state, settle it, answer."""
    module = AnsibleModule(
        argument_spec={
            "payload": {"type": "str", "required": True, "no_log": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    raw = json.loads(zlib.decompress(base64.b64decode(module.params["payload"])))
    try:
        report = settle(
            parse(raw),
            check=module.check_mode,
            force=module.params["force"],
        )
    except (SettleError, RuntimeError, OSError) as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": bool(report.changed or report.done or (module.check_mode and report.pending)),
        "changed_paths": report.changed,
        "pending": [asdict(item) for item in report.pending],
        "done": [asdict(item) for item in report.done],
    }
    # Ansible prints a diff with each task that returns one: only where it was asked for.
    if module._diff:  # noqa: SLF001 - AnsibleModule has no other name for it
        result["diff"] = report.diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
