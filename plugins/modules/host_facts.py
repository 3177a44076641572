#!/usr/bin/python
"""Documentation of `host_facts`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: Collect what preflight and the roles need to know of a host
description:
  - Sets the fact C(fleet) in one remote call, which costs a fraction of M(ansible.builtin.setup).
  - A host that can't be reached doesn't fail the task. M(celery_fleet.core.preflight_hosts) names all such hosts
    at once.
  - Changes nothing, so it also runs in check mode.
options:
  directories:
    description: Directories and files that have to exist. The fact names those that don't.
    type: list
    elements: str
    default: []
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Collect the facts
  celery_fleet.core.host_facts:
  become: true
"""

RETURN = r"""
ansible_facts:
  description: The facts to add.
  returned: always
  type: dict
  contains:
    fleet:
      description: What was found. If the host can't be reached, it only has C(reachable) and C(reason).
      returned: always
      type: dict
      contains:
        reachable:
          description: Whether the host has answered.
          returned: always
          type: bool
        reason:
          description: Why it has not, in one line.
          returned: always
          type: str
        uid:
          description: User ID of the remote command; 0 if privilege escalation works.
          returned: when reachable
          type: int
        distribution:
          description: ID of the distribution, such as V(debian).
          returned: when reachable
          type: str
        distribution_like:
          description: IDs of the distributions that it is derived from, such as V(debian).
          returned: when reachable
          type: list
          elements: str
        distribution_version:
          description: Its version, such as V(12).
          returned: when reachable
          type: str
        systemd_version:
          description: Version of systemd.
          returned: when reachable
          type: int
        python_version:
          description: Version of the host's Python.
          returned: when reachable
          type: str
        processors:
          description: Number of processors.
          returned: when reachable
          type: int
        memory_bytes:
          description: Memory in bytes.
          returned: when reachable
          type: int
        free_bytes:
          description: Free bytes on the file systems of C(/opt) and C(/var).
          returned: when reachable
          type: dict
        packages:
          description: Names of the installed Debian packages.
          returned: when reachable
          type: list
          elements: str
        claims:
          description: What the inventory wants on the host, as P(celery_fleet.core.claims#filter) returns it.
          returned: when reachable
          type: dict
        marks:
          description: The claims of all applications that are on the host.
          returned: when reachable
          type: list
          elements: dict
        listeners:
          description: Processes that listen on the ports of the claims, by port.
          returned: when reachable
          type: dict
        clock_offset:
          description: Seconds that the host's clock is certainly off the control node's; positive if it is ahead.
          returned: when reachable
          type: float
"""
