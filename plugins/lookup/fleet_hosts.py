"""Lookup `fleet_hosts`: returns the names of the fleet's groups in this inventory, for `hosts:` of a play."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_hosts
author: Celery Fleet (!UNKNOWN)
short_description: Return the inventory's names of the fleet's groups
description:
  - Returns the names that the variable C(fleet_groups) gives to groups of Celery Fleet.
  - Leaves out groups that the inventory lacks, such as C(redis) if the application uses an external Redis, because
    Ansible would warn of them. If none is left, it returns C(!all), which matches no host. The group C(fleet) is
    never left out.
  - Ansible renders C(hosts) of a play without the variables of any host. So this reads the variable from C(hostvars) of
    the inventory's first host, which Ansible provides once a play has run. A playbook therefore begins with a play over
    C(all) that has no tasks.
options:
  _terms:
    description: Groups by the names that Celery Fleet uses, such as C(celery_workers).
    type: list
    elements: str
    required: true
  otherwise:
    description: What to return if none of these groups has a host.
    type: str
"""

EXAMPLES = r"""
- name: Let the lookup read the inventory's variables
  hosts: all
  gather_facts: false

- name: Act where the application's code runs
  hosts: "{{ lookup('celery_fleet.core.fleet_hosts', 'celery_workers', 'celery_beat') }}"
"""

RETURN = r"""
_raw:
  description: A name for each of the groups.
  type: list
  elements: str
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.groups import (
    FLEET,
    fleet_names,
    group_names,
)

# Ansible starts a process for each task on each host, and playbooks use this lookup before that. So none of these
# processes has to import what the filters need, which would take 0.1 s of processor time each.
importlib.import_module("ansible_collections.celery_fleet.core.plugins.filter.fleet")


class LookupModule(LookupBase):
    """Reads the inventory's variables, and those of the command line if there are no others yet."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the groups' names."""
        known = variables or {}
        names = (
            fleet_names(known["hostvars"])
            if "hostvars" in known
            else group_names(known.get("fleet_groups"))
        )
        groups = known.get("groups", {})
        otherwise = kwargs.get("otherwise")
        if otherwise and not any(groups.get(names[term]) for term in terms):
            return [str(otherwise)]
        found = [names[term] for term in terms if term == FLEET or names[term] in groups]
        return found or ["!all"]
