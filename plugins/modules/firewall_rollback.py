#!/usr/bin/python
"""Documentation of `firewall_rollback`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_rollback
short_description: Roll a firewall table back unless the fleet gets through it
description:
  - Before a new table of nftables is written, it has systemd bring back the previous one after a minute.
  - If every host still reaches Redis through the new table, this rollback is cancelled.
  - Check mode is not supported.
options:
  do:
    description:
      - V(arm) schedules the rollback.
      - V(connect) opens a new connection to each of O(targets) from the host.
      - V(end) cancels the rollback. If V(connect) has found a silent port on any host of the play, it begins the
        rollback at once and fails.
    type: str
    required: true
    choices: [arm, connect, end]
  app:
    description: Name of the application, for V(arm) and V(end).
    type: str
  file:
    description: Path of the table on the host, for V(arm) and V(end).
    type: str
  targets:
    description: Pairs of host and port to reach, for V(connect).
    type: list
    elements: list
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Arm a rollback
  celery_fleet.core.firewall_rollback:
    do: arm
    app: shop
    file: /etc/celery-fleet/shop/firewall.nft

- name: Reach Redis
  celery_fleet.core.firewall_rollback:
    do: connect
    targets: [[redis1, 6379], [redis1, 6380]]
"""

RETURN = r"""
armed:
  description: That the host will roll back.
  returned: when O(do=arm)
  type: bool
silent:
  description: Targets that did not answer, each with C(host), C(port) and the address the host called from, C(source).
  returned: when O(do=connect)
  type: list
  elements: dict
"""
