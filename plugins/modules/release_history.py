#!/usr/bin/python
"""Documentation of `release_history`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_history
short_description: Choose the release of a run, and compute the record of what was deployed
description:
  - V(look) lists the releases of a host. The other actions run once for all hosts, and contact none.
options:
  do:
    description:
      - V(look) lists what a host keeps and uses. V(deploy) and V(back) choose the release, from what the hosts keep,
        which must be registered as C(__celery_release_there). V(check) requires a way back from the built release.
      - V(record) computes the record after the run. V(refuse) computes that of a deploy that has failed, and chooses
        the release that served before.
      - V(note) returns O(why), so that later plays of the run know what has happened.
    type: str
    required: true
    choices: [look, deploy, back, check, note, refuse, record]
  root:
    description: Directory of the application on the host, for V(look).
    type: str
    default: ""
  hosts:
    description: Hosts that have releases, for V(deploy), V(back) and V(check).
    type: list
    elements: str
    default: []
  asked:
    description: The release that was asked for, for V(deploy) and V(back).
    type: str
    default: ""
  source:
    description: The source in the inventory, C(celery_app_source), for V(deploy).
    type: dict
    default: {}
  record:
    description: The record, from M(celery_fleet.core.run_lease).
    type: dict
    default: {}
  accepted:
    description: Whether V(back) and V(check) may cross one-way migrations.
    type: bool
    default: false
  why:
    description: The operator's reason, or why the release was refused.
    type: str
    default: ""
  release:
    description: The release that was deployed, gone back to or refused, for V(check), V(refuse) and V(record).
    type: str
    default: ""
  choice:
    description: What V(deploy) or V(back) has returned as RV(choice), for V(check), V(refuse) and V(record).
    type: dict
  result:
    description: How the run has ended, for V(record).
    type: str
    default: deployed
    choices: [deployed, rolled back]
  directory:
    description: Directory of the run on the control node, for V(refuse) and V(record).
    type: str
    default: ""
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: List the releases of the host
  celery_fleet.core.release_history:
    do: look
    root: /opt/shop
  register: __celery_release_there

- name: Choose the release
  celery_fleet.core.release_history:
    do: deploy
    hosts: [worker1, worker2]
    asked: v1.4
    source: {git: "https://git.example.com/shop.git", version: main}
    record: "{{ __fleet_lease.releases }}"
  run_once: true
  register: chosen
"""

RETURN = r"""
there:
  description: The releases that the host keeps, what each of its processes uses, and what commands by hand use.
  returned: with V(look)
  type: dict
why:
  description: What was given.
  returned: with V(note)
  type: str
choice:
  description: What the run deploys.
  returned: with V(deploy), V(back) and V(refuse)
  type: dict
record:
  description: The record to write.
  returned: with V(deploy), V(back), V(refuse) and V(record)
  type: dict
"""
