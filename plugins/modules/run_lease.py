#!/usr/bin/python
"""Documentation of `run_lease`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lease
short_description: Let only one run at a time change a fleet
description:
  - Delegate it to the host that holds the lease. A background process on the control node renews the lease until the
    run ends.
  - The other modules of a run look for the result in the variable C(__fleet_lease).
  - In check mode no lease is taken.
options:
  app:
    description: Name of the application.
    type: str
    required: true
  state:
    description: V(present) takes the lease, or fails and names the run that has it. V(absent) returns it. V(look) only
      reads the record of the releases.
    type: str
    required: true
    choices: [present, absent, look]
  directory:
    description: What RV(directory) was when the lease was taken. Required for V(absent).
    type: str
    default: ""
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Take the lease
  celery_fleet.core.run_lease:
    app: shop
    state: present
  delegate_to: redis1
  run_once: true
  register: __fleet_lease

- name: Return the lease
  celery_fleet.core.run_lease:
    app: shop
    state: absent
    directory: "{{ __fleet_lease.directory }}"
  delegate_to: redis1
  run_once: true
"""

RETURN = r"""
directory:
  description: Directory on the control node that belongs to the run while it has the lease.
  returned: always
  type: str
releases:
  description: The record of the fleet's releases, as docs/deploying.md describes it; empty before the first one.
  returned: with V(present) and V(look)
  type: dict
"""
