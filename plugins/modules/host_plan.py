#!/usr/bin/python
"""Documentation of `host_plan`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_plan
short_description: Compare a host with all that the inventory wants of it
description:
  - Renders what each role wants and compares it in one remote call. Which roles count depends on the tags of the run.
  - Give its task C(check_mode=true). The play must import the roles, because the module reads their variables
    C(__<role>_wanted).
options: {}
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Compare the host with the inventory
  celery_fleet.core.host_plan:
  check_mode: true
  register: __fleet_plan
"""

RETURN = r"""
items:
  description: What a run would do on this host, each with C(host), C(part), C(subject), C(action) and C(why).
  returned: always
  type: list
  elements: dict
due:
  description: The parts that a run has to apply.
  returned: always
  type: list
  elements: str
states:
  description: What systemd says of each unit.
  returned: always
  type: dict
waiting:
  description: How many tasks wait in each queue of the broker that the inventory does not name.
  returned: always
  type: dict
remarks:
  description: What the plan says about the host besides, such as what a release lacks that the fleet went back to.
  returned: always
  type: list
  elements: str
"""
