#!/usr/bin/python
"""Documentation of `fleet_firewall`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_firewall
short_description: Try a firewall table before it is written
description:
  - Loads a table of nftables on a host, asks from hosts who gets through, and keeps the table or takes it back.
  - If the run ends in between, the host takes the table back by itself after two minutes.
  - Check mode is not supported.
options:
  do:
    description:
      - V(try) loads O(text), V(back) loads the table in O(file) again, V(keep) ends the trial.
      - V(connect) tries to reach O(targets) from the host.
      - V(refuse) fails with what the other steps have registered on the hosts of the play. It calls no host.
    type: str
    required: true
    choices: [try, connect, back, keep, refuse]
  app:
    description: Name of the application, for V(try), V(back) and V(keep).
    type: str
  file:
    description: Path, on the host, of the table that is in use, for V(try), V(back) and V(keep).
    type: str
  text:
    description: The new table, for V(try).
    type: str
  targets:
    description: Pairs of host and port to reach, for V(connect).
    type: list
    elements: list
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Load the new table
  celery_fleet.core.fleet_firewall:
    do: try
    app: shop
    file: /etc/celery-fleet/shop/firewall.nft
    text: "{{ table }}"

- name: Reach Redis
  celery_fleet.core.fleet_firewall:
    do: connect
    targets: [[redis1, 6379], [redis1, 6380]]
"""

RETURN = r"""
tried:
  description: Whether a table is on trial now.
  returned: when O(do) is V(try), V(back) or V(keep)
  type: bool
blocked:
  description: Targets that the host can't reach, each with C(host), C(port), C(source) and C(error).
  returned: when O(do=connect)
  type: list
  elements: dict
"""
