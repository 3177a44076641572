#!/usr/bin/python
"""Documentation of `fleet_packages`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_packages
short_description: Note which Debian packages a run brings to a host
description:
  - M(celery_fleet.core.fleet_removal) goes by the note when it removes packages.
  - In check mode nothing is noted.
options:
  do:
    description: V(begin) comes before the packages are installed, V(end) after it.
    type: str
    required: true
    choices: [begin, end]
  asked:
    description: Packages that the run asks for. Others that are new came as their dependencies. For V(begin).
    type: list
    elements: str
    default: []
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Note what is there
  celery_fleet.core.fleet_packages:
    do: begin
    asked: [redis-server]

- name: Install the package
  ansible.builtin.apt:
    name: redis-server

- name: Note what is new
  celery_fleet.core.fleet_packages:
    do: end
"""

RETURN = r"""
new:
  description: New packages by name, each V(asked) or V(needed).
  returned: always
  type: dict
"""
