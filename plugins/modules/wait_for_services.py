#!/usr/bin/python
"""Documentation of `wait_for_services`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_for_services
short_description: Wait until the services of a host serve
description:
  - Looks at systemd units, HTTP addresses and what beat has loaded, until all is well or the time is over.
  - Without O(required), what does not serve doesn't fail the task. M(celery_fleet.core.service_report) names it for all
    hosts at once.
  - In check mode it looks once, without waiting.
options:
  units:
    description: Units that have to be active.
    type: list
    elements: str
    default: []
  addresses:
    description: Addresses that have to answer an HTTP request.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What to call it in messages.
        type: str
        required: true
      host:
        description: Host to ask for.
        type: str
        required: true
      address:
        description: Where to connect to; by default the host.
        type: str
      port:
        description: Port to connect to with TLS.
        type: int
      ca:
        description: Path, on the host, of the certificate of the authority that must have signed the server's.
        type: str
      listen:
        description: The path of a Unix socket, or C(ADDRESS:PORT), for a process that answers without TLS.
        type: str
      path:
        description: Path to ask for.
        type: str
        required: true
      status:
        description: HTTP statuses that are right. Without it, all but those of server errors are.
        type: list
        elements: int
        default: []
  journals:
    description: Units for which to return the last lines of the journal.
    type: list
    elements: str
    default: []
  schedule:
    description: Path, on the host, of the file in which beat writes what it has loaded.
    type: str
    default: ""
  release:
    description: Path, on the host, of the note of beat's release.
    type: str
    default: ""
  timeout:
    description: Seconds to wait.
    type: float
    required: true
  required:
    description:
      - Whether to fail if something does not serve. The wait then ends early for a unit that has failed, or that
        systemd restarts again and again.
    type: bool
    default: false
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Wait for beat
  celery_fleet.core.wait_for_services:
    units: [shop-beat.service]
    schedule: /run/shop-beat/schedule.json
    timeout: 30
  register: __verify_serving
"""

RETURN = r"""
units:
  description: systemd's properties of each unit.
  returned: success
  type: dict
journals:
  description: Last lines of the journal of each unit that was asked for.
  returned: success
  type: dict
schedule:
  description: Entries that beat has loaded, or null if they are more than 50 MB.
  returned: success
  type: list
  elements: dict
zone:
  description: Time zone of the entries.
  returned: success
  type: str
code:
  description: Names of entries that are in the release's own code.
  returned: success
  type: list
  elements: str
errors:
  description: What does not serve, and why, by name.
  returned: success
  type: dict
"""
