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
      - V(look) tells what there is and changes nothing. V(messages) tells what the broker of this host holds.
      - V(stop) disables and stops the units of one stage and waits until they have ended.
      - V(settle) writes down that what becomes of the messages is settled.
      - V(remove) removes all that is not kept. V(finish) removes what the run itself has left.
    type: str
    required: true
    choices: [look, messages, stop, settle, remove, finish]
  keep:
    description: What stays, C(fleet_remove_keep).
    type: list
    elements: str
    choices: [logs, redis_data, releases, state]
    default: []
  packages:
    description: Whether to remove Debian packages that the fleet brought and that nothing else needs.
    type: bool
    default: true
  stage:
    description: Which units to stop.
    type: str
    choices: ["", watch, beat, web, workers, flower, redis, rest]
    default: ""
  messages:
    description: How many messages were given up, for V(settle).
    type: int
    default: 0
  places:
    description: Name and directories of the application. The action plugin takes them from the variables of the roles.
    type: dict
  patience:
    description: Seconds that one call waits for units to end. The action plugin calls until they have.
    type: float
    default: 20
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Look what there is
  celery_fleet.core.fleet_removal:
    do: look

- name: Stop beat
  celery_fleet.core.fleet_removal:
    do: stop
    stage: beat
"""

RETURN = r"""
found:
  description: What there is.
  returned: when O(do=look)
  type: dict
messages:
  description: What the broker holds.
  returned: when O(do=messages)
  type: dict
waiting:
  description: Units that have not ended yet, each with what it says.
  returned: when O(do=stop)
  type: dict
removed:
  description: What was removed.
  returned: when O(do) is V(remove) or V(finish)
  type: list
  elements: str
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
            "places": {"type": "dict"},
            "keep": {"type": "list", "elements": "str", "choices": list(KEEP), "default": []},
            "packages": {"type": "bool", "default": True},
            "stage": {"type": "str", "choices": ["", *STAGES], "default": ""},
            "patience": {"type": "float", "default": 20},
            "messages": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    do, params = module.params["do"], module.params
    if params["places"] is None:
        module.fail_json(
            msg="places is missing: only the action plugin of this name can call this module"
        )
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
