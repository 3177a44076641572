#!/usr/bin/python
"""Ansible module behind the action plugin `remove_application`: see `removal/remover.py`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: remove_application
short_description: Take one application off a host, step by step
description:
  - The action plugin of the same name calls this module; C(celery_fleet.core.remove_fleet) says in which order.
  - Every step may be repeated.
options:
  do:
    description:
      - V(look) returns what there is and changes nothing. V(messages) returns what the broker of this host holds.
      - V(stop) disables and stops the units of one stage and waits until they have ended.
      - V(record) writes down that the messages may be deleted.
      - V(hand_over) lets O(staying) have the primaries of several Redis hosts.
      - V(remove) removes all that is not kept. V(finish) removes what the run itself has left.
    type: str
    required: true
    choices: [look, messages, stop, record, hand_over, remove, finish]
  keep:
    description: What stays, C(fleet_remove_keep).
    type: list
    elements: str
    choices: [logs, redis_data, releases, state]
    default: []
  stage:
    description: Which units to stop.
    type: str
    choices: ["", watch, beat, web, workers, flower, redis, rest]
    default: ""
  messages:
    description: How many messages were given up, for V(record).
    type: int
    default: 0
  staying:
    description: Redis hosts that stay, for V(hand_over).
    type: list
    elements: str
    default: []
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
  celery_fleet.core.remove_application:
    do: look

- name: Stop beat
  celery_fleet.core.remove_application:
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

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.lock import (
    exclusive,
    shared,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.manifest import KEEP
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    ReconcileError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.application import (
    InstalledApplication,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    ApplicationPaths,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.look import find_footprint
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.messages import (
    messages,
    settle_messages,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.remover import Remover
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.replicas import hand_over
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.stop import STAGES, stop

STEPS = ("look", "messages", "stop", "record", "hand_over", "remove", "finish")


def step(params: Mapping[str, Any]) -> dict[str, Any]:
    """Take one step and return the module's answer."""
    do = params["do"]
    with exclusive() if do == "remove" else shared():
        there = InstalledApplication(ApplicationPaths(**params["places"]), tuple(params["keep"]))
        if do == "look":
            return {"found": find_footprint(there).as_dict()}
        if do == "messages":
            return {"messages": messages(there)}
        if do == "stop":
            return stop(there, params["stage"], params["patience"])
        if do == "record":
            settle_messages(there, params["messages"])
            return {}
        if do == "hand_over":
            return {"changed": bool(hand_over(there, params["staying"]))}
        remover = Remover(there)
        if do == "remove":
            remover.remove()
    if do == "finish":
        remover.finish()
    removed = remover.removed
    return {"removed": removed, "changed": bool(removed), "warnings": remover.warnings}


def main() -> None:
    """Run one step and return its answer."""
    module = AnsibleModule(
        argument_spec={
            "do": {"type": "str", "required": True, "choices": list(STEPS)},
            "places": {"type": "dict"},
            "keep": {"type": "list", "elements": "str", "choices": list(KEEP), "default": []},
            "stage": {"type": "str", "choices": ["", *STAGES], "default": ""},
            "patience": {"type": "float", "default": 20},
            "messages": {"type": "int", "default": 0},
            "staying": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["places"] is None:
        module.fail_json(
            msg="places is missing: only the action plugin of this name can call this module"
        )
    if module.check_mode and params["do"] not in ("look", "messages"):
        module.exit_json(changed=False, waiting={}, removed=[])
    try:
        answer = step(params)
    except (ReconcileError, RuntimeError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        module.fail_json(
            msg=f"{words}. Fix that on this host and run again to finish what was begun."
        )
    for warning in answer.pop("warnings", ()):
        module.warn(warning)
    module.exit_json(**{"changed": False, **answer})


if __name__ == "__main__":
    main()
