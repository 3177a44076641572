#!/usr/bin/python
"""Documentation of `plan_report`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: plan_report
short_description: Print the plan of the whole fleet
description:
  - Reads what M(celery_fleet.core.host_plan) and M(celery_fleet.core.database_schedule) have registered on each host,
    as C(__fleet_plan) and C(__fleet_schedule). It calls no host.
  - Fails if the plan must not be followed, for example because a second beat would start.
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
  missing:
    description: Reasons why hosts were left out, by host.
    type: dict
    required: true
  workers:
    description: Hosts of workers, the group C(celery_workers).
    type: list
    elements: str
    required: true
  instances:
    description: C(celery_worker_instances) for hosts that don't have their own.
    type: dict
    required: true
  drain:
    description: Longest time in seconds that a worker may take to drain.
    type: float
    required: true
  redis_moves:
    description: Whether each primary of Redis moves to another host before it restarts, and all workers can follow it.
    type: bool
    default: false
  restart_all:
    description: Whether workers that have no need to restart also do.
    type: bool
    required: true
  only:
    description: The workers that restart, C(celery_restart_workers).
    type: raw
    required: true
  min_capacity:
    description: Percentage of each queue's processes that keep consuming, C(celery_restart_min_capacity).
    type: int
    required: true
  batch:
    description: How many workers restart at a time, C(celery_restart_batch).
    type: int
    required: true
  canary:
    description: How a deploy observes its canary, with C(seconds), C(worker) and the limits; empty if it observes none.
    type: dict
    default: {}
  releases:
    description: The record of the fleet's releases, whose hold the plan mentions.
    type: dict
    default: {}
  path:
    description: File on the control node to write the plan to, as JSON. Nothing is written if it is empty.
    type: path
    default: ""
  back:
    description: Id of the release that C(rollback_app.yml) goes back to; empty in other runs.
    type: str
    default: ""
  approved:
    description: File with an approved plan. If the plan goes beyond it, the task fails.
    type: path
    default: ""
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Print the plan
  celery_fleet.core.plan_report:
    app: shop
    hosts: "{{ ansible_play_hosts }}"
    missing: {}
    workers: "{{ groups['celery_workers'] }}"
    instances: "{{ celery_worker_instances }}"
    drain: 600
    restart_all: false
    only: ""
    min_capacity: 50
    batch: 1
    path: plan.json
  run_once: true
"""

RETURN = r"""
changes:
  description: Whether there is anything to do.
  returned: success
  type: bool
due:
  description: The parts that a run has to apply on any host.
  returned: success
  type: list
  elements: str
plan:
  description: The plan as data, with C(hosts), C(missing), C(items) and C(notes).
  returned: success
  type: dict
redis_pauses:
  description: Whether the workers have to pause while Redis restarts.
  returned: success
  type: bool
"""
