#!/usr/bin/python
"""Documentation of `new_env`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: new_env
short_description: Make an environment for a fleet
description:
  - Writes an inventory with its group variables and secrets below the working directory of the run.
  - Takes no options of a task. They are extra variables of C(celery_fleet.core.new_env), such as C(-e NAME=production).
    Without any the playbook lists them.
  - Check mode is not supported.
options: {}
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Make an environment from the extra variables
  celery_fleet.core.new_env:
"""

RETURN = r"""
msg:
  description: What is wrong with the extra variables. Nothing was written.
  returned: failure
  type: str
"""
