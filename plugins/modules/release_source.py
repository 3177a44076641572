#!/usr/bin/python
"""Documentation of `release_source`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_source
short_description: Pack the source of the application on the control node
description:
  - Packs once for all hosts. The archive stays in a cache directory of the user who runs Ansible, for a week.
  - In check mode the archive is not written.
options:
  source:
    description:
      - Where the code is, C(celery_app_source). With C(of_collection) it is a directory of the collection, and all of
        its files are packed, even if git ignores them.
    type: dict
    required: true
  python:
    description: Interpreter of the releases. The same code with another interpreter is another release.
    type: str
    default: ""
  kept:
    description: Name of a release that the hosts keep, which is taken instead of O(source).
    type: str
    default: ""
  queues:
    description: Queues that workers consume. They are returned as they are, so that all hosts have the same list.
    type: list
    elements: str
    default: []
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Pack the source
  celery_fleet.core.release_source:
    source: {path: ../shop}
    python: /usr/bin/python3
  run_once: true
  register: source
"""

RETURN = r"""
id:
  description: Name of the release, twelve hexadecimal digits. The same source always has the same name.
  returned: success
  type: str
archive:
  description: Path of the archive on the control node; empty for a kept release of which it has no copy.
  returned: success
  type: str
requirements:
  description: C(file), the name of the requirements file; C(digest), a hash of what it and the files that it
    includes ask for; and C(local), whether a package is built from files.
  returned: success
  type: dict
queues:
  description: The queues that were given.
  returned: success
  type: list
  elements: str
"""
