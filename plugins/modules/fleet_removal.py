#!/usr/bin/python
"""Ansible module behind the action plugin `fleet_removal`: see `removal/remover.py`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_removal
short_description: Take one application off a host, step by step
description:
  - The action plugin of the same name calls this module; C(celery_fleet.core.remove_fleet) says in which order.
  - Every step may be repeated.
options:
  do:
    description:
      - C(look) tells what there is and changes nothing, C(messages) what the broker of this host holds.
      - C(stop) disables and stops the units of one stage and waits for I(patience).
      - C(settle) writes down that what becomes of the messages is settled.
      - C(remove) removes all but what is kept, C(finish) what the run itself has left.
    type: str
    required: true
    choices: [look, messages, stop, settle, remove, finish]
  places:
    description: Name and directories of the application.
    type: dict
    required: true
  keep:
    description: What stays, by the names of C(fleet_remove_keep).
    type: list
    elements: str
    default: []
  packages:
    description: Whether Debian packages go that the fleet brought and that nobody needs.
    type: bool
    default: true
  stage:
    description: Which units to stop.
    type: str
    default: ""
  patience:
    description: Seconds to wait for their end.
    type: float
    default: 20
  messages:
    description: How many messages were given up.
    type: int
    default: 0
author: Celery Fleet
"""

EXAMPLES = r"""
- name: Look what there is
  fleet_removal:
    do: look
"""

RETURN = r"""
found:
  description: What there is, for C(look).
  returned: success
  type: dict
messages:
  description: What the broker holds, for C(messages).
  returned: success
  type: dict
waiting:
  description: Units that have not ended yet, for C(stop), each with what it says.
  returned: success
  type: dict
removed:
  description: What was removed, for C(remove).
  returned: success
  type: list
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.lock import (
    alone,
    undisturbed,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    KEEP,
    STAGES,
    Places,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.installed import (
    InstalledApplication,
    Options,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.look import look
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.messages import (
    messages,
    settle_messages,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.remover import Remover
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.stop import stop


def main() -> None:
    """One step, one answer."""
    module = AnsibleModule(
        argument_spec={
            "do": {
                "type": "str",
                "required": True,
                "choices": ["look", "messages", "stop", "settle", "remove", "finish"],
            },
            "places": {"type": "dict", "required": True},
            "keep": {"type": "list", "elements": "str", "choices": list(KEEP), "default": []},
            "packages": {"type": "bool", "default": True},
            "stage": {"type": "str", "choices": ["", *STAGES], "default": ""},
            "patience": {"type": "float", "default": 20},
            "messages": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    do, params = module.params["do"], module.params
    if module.check_mode and do not in ("look", "messages"):
        module.exit_json(changed=False, waiting={}, removed=[])
    options = Options(tuple(params["keep"]), params["packages"])
    result: dict[str, object] = {"changed": False}
    try:
        with alone() if do == "remove" else undisturbed():
            there = InstalledApplication(Places(**params["places"]), options)
            remover = Remover(there)
            if do == "look":
                result["found"] = look(there).as_dict()
            elif do == "messages":
                result["messages"] = messages(there)
            elif do == "stop":
                result.update(stop(there, params["stage"], params["patience"]))
            elif do == "settle":
                settle_messages(there, params["messages"])
            elif do == "remove":
                remover.remove()
        if do == "finish":
            remover.finish()
    except (SettleError, RuntimeError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        module.fail_json(
            msg=f"{words}. Mend that on this host and run again, which finishes what was begun."
        )
    for warning in remover.warnings:
        module.warn(warning)
    if do in ("remove", "finish"):
        result.update(removed=remover.removed, changed=bool(remover.removed))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
