#!/usr/bin/python
"""Ansible module behind the action plugin `reconcile`: see `reconcile/reconciler.py`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reconcile
short_description: Bring files, links and systemd units of a host to the desired state in one call
description:
  - The action plugin of the same name renders templates on the control node and calls this module once.
  - Files are written atomically with owner and mode. If a daemon's own check refuses them, all files of the
    call are restored.
  - A unit is restarted if it was started with other files or settings than those on disk, even if another program
    changed these.
  - Check mode returns a plan, for one role or for several at once.
options:
  wanted:
    description:
      - The desired state, a dictionary with lists of C(sysusers), C(directories), C(files), C(links), C(checks),
        C(units), C(releases), C(commands), C(packages) and C(data), and with C(owned), which says what to remove.
      - The action plugin sends it to the host as compressed JSON in base64. It contains secrets and is never logged.
    type: raw
    required: true
  units:
    description: With C(leave), units are enabled and reloaded from disk but neither started, changed nor removed.
    type: str
    choices: [act, leave]
    default: act
  restart:
    description: Whether to restart units that have to be; otherwise they stay pending, and the rest is done.
    type: bool
    default: true
  trial:
    description: Only let daemons check the files, and restore them afterwards. Units are not changed.
    type: bool
    default: false
  finish:
    description:
      - Whether users of running Redis servers are limited to their rules.
      - Otherwise changed users keep their previous rights, including old passwords, and removed users stay.
    type: bool
    default: false
  revoke:
    description: Whether changed users of running Redis servers lose previous rights and their connections at once.
    type: bool
    default: false
  manifest:
    description:
      - Path of the list of what the application has on the host, which a removal uses.
      - It is written before anything else.
      - The action plugin gives it. Without one no list is kept.
    type: str
    default: ""
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Bring files and units to the wanted state
  celery_fleet.core.reconcile:
    wanted:
      files:
        - {dest: /etc/example.conf, content: "text\n"}
      units:
        - {name: example.service, files: [/etc/example.conf]}
"""

RETURN = r"""
changed_paths:
  description: Paths that were written, linked or removed, or would be in check mode.
  returned: success
  type: list
  elements: str
pending:
  description:
    - What has to be done, each with C(part), C(unit), C(action) and C(why), a list of reasons.
    - Actions are C(start), C(restart), C(reload), C(live) and C(remove); in check mode also C(write), C(link),
      C(install) and C(build), which concern no unit.
  returned: success
  type: list
  elements: dict
done:
  description: What of it was done.
  returned: success
  type: list
  elements: dict
states:
  description: What systemd says of each unit before anything was done to it.
  returned: success
  type: dict
parts:
  description: For each part whether anything has to be done.
  returned: success
  type: dict
waiting:
  description: How many tasks wait in each queue of the broker that the inventory does not name.
  returned: success
  type: dict
remarks:
  description: The warnings that the module gives, such as what a release lacks that the fleet went back to.
  returned: success
  type: list
  elements: str
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    DesiredStateError,
    parse,
    parse_parts,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reconciler import (
    ReconcileOptions,
    reconcile,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    ReconcileError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.transport import unpack


def main() -> None:
    """Unpack the desired state, apply it and return the report."""
    module = AnsibleModule(
        argument_spec={
            "wanted": {"type": "raw", "required": True, "no_log": True},
            "units": {"type": "str", "choices": ["act", "leave"], "default": "act"},
            "restart": {"type": "bool", "default": True},
            "trial": {"type": "bool", "default": False},
            "finish": {"type": "bool", "default": False},
            "revoke": {"type": "bool", "default": False},
            "manifest": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    raw = unpack(module.params["wanted"])
    options = ReconcileOptions(
        act=module.params["units"] == "act",
        restart=module.params["restart"],
        trial=module.params["trial"],
        finish=module.params["finish"],
        revoke=module.params["revoke"],
        manifest=module.params["manifest"],
    )
    try:
        parts = parse_parts(raw["parts"]) if "parts" in raw else [("", parse(raw))]
        report = reconcile(parts, options, check=module.check_mode)
    except (ReconcileError, DesiredStateError, RuntimeError) as error:
        module.fail_json(msg=str(error))
    for warning in report.warnings:
        module.warn(warning)
    due = {item.part for item in report.changes} | {item.part for item in report.pending}
    result = {
        "changed": bool(report.changes or report.done or (module.check_mode and report.pending)),
        "changed_paths": report.changed,
        "pending": [asdict(item) for item in report.pending],
        "done": [asdict(item) for item in report.done],
        "states": report.states,
        "parts": {name: name in due for name, _ in parts},
        "waiting": report.waiting,
        "remarks": report.warnings,
    }
    # Ansible prints every diff that a task returns, so return it only on request.
    if module._diff:  # noqa: SLF001 - AnsibleModule has no other name for it
        result["diff"] = report.diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
