#!/usr/bin/python
"""Documentation of `database_schedule`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_schedule
short_description: Compare the schedule in the database with the inventory, or write it
description:
  - For a beat with C(celery_beat_scheduler=database). Runs on beat's host, in the Python of a release.
  - In check mode V(sync) does nothing.
options:
  do:
    description: V(plan) only reads. V(sync) writes.
    type: str
    required: true
    choices: [plan, sync]
  app:
    description: Name of the application.
    type: str
    required: true
  release:
    description: Name of the release.
    type: str
    required: true
  root:
    description: Directory of the application's releases.
    type: str
    required: true
  runtime:
    description: Directory of the host-side runtime.
    type: str
    required: true
  settings:
    description: Beat's settings with the entries, as P(celery_fleet.core.process_settings#filter) returns them.
    type: dict
    required: true
  timeout:
    description: Seconds until the database has to answer.
    type: float
    required: true
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Compare the schedule
  celery_fleet.core.database_schedule:
    do: plan
    app: shop
    release: "{{ source.id }}"
    root: /opt/shop
    runtime: "{{ celery_app_runtime }}"
    settings: "{{ settings }}"
    timeout: 60
  register: __fleet_schedule
"""

RETURN = r"""
items:
  description: What a run would write, each with C(host), C(part), C(subject), C(action) and C(why).
  returned: when O(do=plan)
  type: list
  elements: dict
notes:
  description: What else is worth knowing.
  returned: when O(do=plan)
  type: list
  elements: str
due:
  description: Whether V(sync) has anything to do, as far as V(plan) can tell.
  returned: when O(do=plan)
  type: bool
"""
