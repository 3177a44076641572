#!/usr/bin/python
"""Documentation of `service_report`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_report
short_description: Print what serves, or fail and name all that does not
description:
  - Reads what M(celery_fleet.core.wait_for_services) and M(celery_fleet.core.send_canaries) have registered on the
    hosts, as C(__verify_serving), C(__verify_journals) and C(__verify_probe). It calls no host.
options:
  app:
    description: Name of the application.
    type: str
    required: true
  hosts:
    description: Hosts of the play.
    type: list
    elements: str
    required: true
  prober:
    description: Host that has sent the canaries; empty if none has.
    type: str
    required: true
  schedule:
    description: Entries that beat should have loaded. If left out, what it has loaded is not checked.
    type: dict
  policy:
    description: How the inventory's entries go together with those of the application, C(celery_beat_schedule_policy).
    type: str
    default: add
  table:
    description: Whether to print a table of all that serves.
    type: bool
    default: false
  notes:
    description: Lines to print below the table.
    type: list
    elements: str
    default: []
  path:
    description: File on the control node to write the table to, instead of printing it.
    type: path
    default: ""
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Print what serves
  celery_fleet.core.service_report:
    app: shop
    hosts: "{{ ansible_play_hosts }}"
    prober: worker1
    table: true
  run_once: true
"""

RETURN = r"""
msg:
  description: What does not serve, with host, unit, journal and what to type next.
  returned: failure
  type: str
"""
