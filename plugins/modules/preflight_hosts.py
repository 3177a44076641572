#!/usr/bin/python
"""Documentation of `preflight_hosts`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_hosts
short_description: Refuse hosts that can't be reached or are not supported
description:
  - Checks what M(celery_fleet.core.host_facts) has found on the hosts of the play, and names all errors at once.
  - Runs once for all hosts and calls none.
options:
  asked:
    description: What each host needs, which M(celery_fleet.core.preflight_inventory) has returned.
    type: dict
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check the hosts
  celery_fleet.core.preflight_hosts:
    asked: "{{ __preflight_inventory.asked }}"
  run_once: true
  register: __preflight_hosts
"""

RETURN = r"""
missing:
  description: Hosts of workers that are down and were left out, each with the reason.
  returned: success
  type: dict
remedies:
  description: What to do about each of these hosts.
  returned: success
  type: dict
msg:
  description: How many hosts are in order, or all errors.
  returned: always
  type: str
"""
