#!/usr/bin/python
"""Documentation of `removal_report`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: removal_report
short_description: Plan and report the removal of an application
description:
  - The part of a removal that concerns all hosts at once. It reads what the hosts have answered and calls none.
  - M(celery_fleet.core.remove_application) does the work on each host.
options:
  do:
    description:
      - V(check) refuses what can't be removed. V(plan) prints what would be removed.
      - V(gate) fails if messages would be lost. V(end) prints what was removed.
    type: str
    required: true
    choices: [check, plan, gate, end]
  app:
    description: Name of the application.
    type: str
    required: true
  owner:
    description: Name of the inventory that deploys the application, for V(check).
    type: str
  keep:
    description: What to keep, C(fleet_remove_keep). Not for V(end).
    type: list
    elements: str
  without:
    description: Whether hosts that can't be reached may be left out, for V(check).
    type: bool
  discard:
    description: Whether messages in Redis may be lost, for V(gate).
    type: bool
  path:
    description: File on the control node to write the plan to, as JSON, for V(plan).
    type: path
    default: ""
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Print what would be removed
  celery_fleet.core.removal_report:
    do: plan
    app: shop
    keep: [logs]
  run_once: true
"""

RETURN = r"""
there:
  description: Hosts that have the application.
  returned: when O(do=check)
  type: list
  elements: str
missing:
  description: Hosts that can't be reached.
  returned: when O(do) is V(check) or V(end)
  type: list
  elements: str
changes:
  description: Whether there is anything to remove.
  returned: when O(do=plan)
  type: bool
messages:
  description: Which messages would be lost; empty if none would.
  returned: when O(do=plan)
  type: str
number:
  description: How many messages are given up.
  returned: when O(do=gate)
  type: int
"""
