#!/usr/bin/python
"""Documentation of `send_canaries`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: send_canaries
short_description: Send test tasks to workers
description:
  - Sends a canary to each worker through a separate queue and waits for the answers. Runs in the Python of a release on
    this host.
  - It also finds out which queues workers consume and which scheduled tasks they don't know.
  - Settings go to the program by its standard input, and are never written to the host.
  - In check mode nothing is sent.
options:
  settings:
    description: Celery settings of the operator.
    type: dict
    required: true
  nodes:
    description: The workers of the fleet, as P(celery_fleet.core.worker_nodes#filter) returns them.
    type: dict
    required: true
  hosts:
    description: Hosts with the workers to ask. This host must have one of these workers.
    type: list
    elements: str
    required: true
  schedule:
    description: Entries of the schedule by name. They are checked if all workers are asked.
    type: dict
    required: true
  loaded:
    description: Entries that beat has loaded, as M(celery_fleet.core.wait_for_services) returns them.
    type: list
    elements: dict
    default: []
  routes:
    description: Queues by name of task, C(celery_app_task_routes).
    type: dict
    required: true
  external:
    description: Queues that no worker of the fleet consumes, C(celery_app_external_queues).
    type: list
    elements: str
    default: []
  pins:
    description: Directory on the host with a link to the release of each process.
    type: str
    required: true
  runtime:
    description: Directory of the host-side runtime.
    type: str
    required: true
  user:
    description: Unix user of the application's processes.
    type: str
    required: true
  timeout:
    description: Seconds to wait for all answers.
    type: float
    required: true
  strict:
    description: Whether the task fails if a worker is not well. Otherwise M(celery_fleet.core.service_report) tells.
    type: bool
    default: false
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Send canaries
  celery_fleet.core.send_canaries:
    settings: "{{ settings }}"
    nodes: "{{ hostvars | celery_fleet.core.worker_nodes(groups['celery_workers'], celery_worker_instances) }}"
    hosts: "{{ ansible_play_hosts }}"
    schedule: {}
    routes: {}
    pins: /opt/shop/pins
    runtime: "{{ celery_app_runtime }}"
    user: shop
    timeout: 20
  register: __verify_probe
"""

RETURN = r"""
nodes:
  description: What was found of each worker, by node name.
  returned: when workers were asked
  type: dict
bad:
  description: Workers that are not well, each with C(host), C(unit), C(node) and C(errors).
  returned: always
  type: list
  elements: dict
"""
