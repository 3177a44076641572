#!/usr/bin/python
"""Documentation of `preflight_inventory`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_inventory
short_description: Refuse an inventory that can't become a fleet
description:
  - Checks all variables of all hosts before any host is contacted, and names all errors at once. No secret is
    shown.
  - Runs once for all hosts of the inventory, even with C(--limit).
options: {}
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check the inventory
  celery_fleet.core.preflight_inventory:
  run_once: true
  register: __preflight_inventory
"""

RETURN = r"""
asked:
  description: What each host needs, such as memory, by host.
  returned: success
  type: dict
msg:
  description: How many hosts are in order, or all errors.
  returned: always
  type: str
"""
