#!/usr/bin/python
"""Documentation of `rolling_restart`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rolling_restart
short_description: Restart the workers of a fleet in small groups
description:
  - Starts, restarts and removes workers in one order over all hosts, so that each queue keeps enough processes.
  - V(open) and V(report) run once. The other phases run on each host at the same time, and take the host's turns.
  - Check mode is not supported.
options:
  phase:
    description:
      - V(open) finds out what has to be done and in which order.
      - V(start) starts workers, V(restart) restarts them, V(finish) removes those that the inventory no longer has.
      - V(report) prints how long each turn took.
    type: str
    required: true
    choices: [open, start, restart, finish, report]
  directory:
    description: Directory of the run, which M(celery_fleet.core.run_lease) has returned.
    type: path
    required: true
  app:
    description: Name of the application, for V(open).
    type: str
  inventory:
    description: All hosts of workers, the group C(celery_workers), for V(open).
    type: list
    elements: str
  hosts:
    description: Hosts of the play, for V(open).
    type: list
    elements: str
  instances:
    description: C(celery_worker_instances) for hosts that don't have their own, for V(open).
    type: dict
  force:
    description: Whether workers that have no need to restart also do, for V(open).
    type: bool
  only:
    description: The workers that restart, C(celery_restart_workers), for V(open).
    type: raw
  min_capacity:
    description: Percentage of each queue's processes that keep consuming, C(celery_restart_min_capacity), for V(open).
    type: int
  batch:
    description: How many workers restart at a time, C(celery_restart_batch), for V(open).
    type: int
  report:
    description: File on the control node to write the times of all turns to, C(celery_restart_report), for V(open).
    type: path
  canary:
    description: How a worker is observed before the others restart, C(celery_canary_*), for V(open). Empty for no
      canary.
    type: dict
    default: {}
  place:
    description: Directories of a worker's files, and the settings for asking workers. Not for V(report).
    type: dict
    suboptions:
      settings:
        description: Celery settings of the operator.
        type: dict
        required: true
      configuration:
        description: Directory of the application's configuration.
        type: str
        required: true
      root:
        description: Directory of its releases.
        type: str
        required: true
      state:
        description: Directory of its state.
        type: str
        required: true
      runtime:
        description: Directory of the host-side runtime.
        type: str
        required: true
      user:
        description: Unix user of its processes.
        type: str
        required: true
  turns:
    description: How turns are carried out, for V(start), V(restart) and V(finish).
    type: dict
    suboptions:
      wanted:
        description:
          - What the role C(celery_worker) wants on the host, as M(celery_fleet.core.reconcile) takes it.
          - If it is empty, workers restart with what is on the host.
        type: dict
      force:
        description: As O(force).
        type: bool
        required: true
      deferred:
        description: Workers that stay for now, RV(deferred).
        type: list
        elements: str
      timeout:
        description: Seconds until a worker has to consume.
        type: float
        required: true
      schedule:
        description: Entries of the schedule by name.
        type: dict
        required: true
      routes:
        description: Queues by name of task.
        type: dict
        required: true
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Restart the workers of each host in their turn
  celery_fleet.core.rolling_restart:
    phase: restart
    directory: "{{ __fleet_lease.directory }}"
    place: "{{ __celery_restart_place }}"
    turns: "{{ __celery_restart_turns }}"
  when: inventory_hostname in __celery_restart_roll.hosts.restart
"""

RETURN = r"""
turns:
  description: Whether any worker has a turn.
  returned: when O(phase=open)
  type: bool
hosts:
  description: Hosts that take part, by phase.
  returned: when O(phase=open)
  type: dict
deferred:
  description:
    - Workers that the inventory no longer has, and that stay until a later run. Without them a queue would have too few
      consumers.
  returned: when O(phase=open)
  type: list
  elements: str
whole:
  description: Whether no worker is left for a later run.
  returned: when O(phase=open)
  type: bool
"""
