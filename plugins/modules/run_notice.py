#!/usr/bin/python
"""Documentation of `run_notice`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_notice
short_description: Tell a program that a run begins
description:
  - Runs a program on the control node with a description of the run as JSON on its standard input. If the program
    fails, there is a warning.
  - The callback C(celery_fleet.core.notify) tells the same program how the run has ended. The task fails if that is not
    enabled.
options:
  command:
    description: The program and its arguments.
    type: list
    elements: str
    required: true
  app:
    description: Name of the application.
    type: str
    required: true
  release:
    description: Id of the release that the run deploys; empty if it deploys none.
    type: str
    required: true
  plan:
    description: What M(celery_fleet.core.plan_report) has returned as C(plan).
    type: dict
    required: true
  playbook:
    description: File name of the playbook.
    type: str
    required: true
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Tell of the start
  celery_fleet.core.run_notice:
    command: [/usr/local/bin/tell-us]
    app: shop
    release: 6f1e0c5a1b2c
    plan: "{{ __fleet_plan_report.plan }}"
    playbook: site.yml
  run_once: true
"""

RETURN = r"""
command:
  description: The program and its arguments.
  returned: success
  type: list
  elements: str
start:
  description: What the program was told.
  returned: success
  type: dict
"""
