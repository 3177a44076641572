#!/usr/bin/python
"""Documentation of `pause_workers`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pause_workers
short_description: Have all workers of the fleet pause, or continue
description:
  - Asks the workers from a host with a running worker, to which the task is delegated.
  - If workers can't be asked, that is only a warning. They survive the restart of Redis that follows.
options:
  state:
    description: Whether the workers pause or continue. Without another word they continue after three minutes.
    type: str
    required: true
    choices: [paused, resumed]
  running:
    description: The workers that run, as P(celery_fleet.core.running_workers#filter) returns them.
    type: list
    elements: dict
    required: true
  settings:
    description: Celery settings of the operator.
    type: dict
    required: true
  configuration:
    description: Directory of the application's configuration.
    type: str
    required: true
  root:
    description: Directory of the application's releases.
    type: str
    required: true
  user:
    description: Unix user of the application's processes.
    type: str
    required: true
  wait:
    description: Seconds to wait until no task runs any more. Required for V(paused).
    type: float
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Pause the workers
  celery_fleet.core.pause_workers:
    state: paused
    running: "{{ hostvars | celery_fleet.core.running_workers(groups['celery_workers'], 'shop') }}"
    settings: "{{ settings }}"
    configuration: /etc/celery-fleet/shop
    root: /opt/shop
    user: shop
    wait: 60
  delegate_to: worker1
  run_once: true
"""

RETURN = r"""
paused:
  description: What each worker has answered, by node name.
  returned: always
  type: dict
"""
