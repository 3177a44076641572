#!/usr/bin/python
"""Documentation of `fleet_command`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_command
short_description: Run the commands of a release, each once
description:
  - Claims a command, runs it and marks it as done, so that no other run repeats it. See C(celery_release_commands).
  - V(look), V(claim) and V(settle) go to the host that keeps the marks. V(run) goes to the host that runs the command.
  - In check mode only V(look) does anything.
options:
  do:
    description:
      - V(look) reads the marks. V(claim) reserves O(command) for this run, and waits if another host is at it.
      - V(run) runs O(command) and waits for its end.
      - V(settle) marks it as done. If it has failed, its claim is dropped and the task fails.
    type: str
    required: true
    choices: [look, claim, run, settle]
  app:
    description: Name of the application.
    type: str
    required: true
  release:
    description: Name of the release.
    type: str
    required: true
  scope:
    description: For V(look), whether to read the marks of the whole fleet or those of the host.
    type: str
    choices: [fleet, host]
  command:
    description: The command, as P(celery_fleet.core.fleet_commands_due#filter) returns it. Not for V(look).
    type: dict
  claim:
    description: What V(claim) has returned, for V(run) and V(settle).
    type: dict
  ended:
    description: How the command has ended, which V(run) has returned, for V(settle).
    type: dict
  runtime:
    description: Directory of the host-side runtime, for V(run).
    type: str
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Claim the command
  celery_fleet.core.fleet_command:
    do: claim
    app: shop
    release: "{{ source.id }}"
    command: "{{ command }}"
  delegate_to: redis1
  register: claimed

- name: Run the command
  celery_fleet.core.fleet_command:
    do: run
    app: shop
    release: "{{ source.id }}"
    command: "{{ command }}"
    claim: "{{ claimed.claim }}"
    runtime: "{{ celery_app_runtime }}"
  when: claimed.claim.state == 'ours'
"""

RETURN = r"""
marks:
  description: Marks of the release's commands, and of those that run only once ever, by name.
  returned: when O(do=look)
  type: dict
  contains:
    release:
      description: Marks of commands that run once per release.
      type: dict
      returned: always
    once:
      description: Marks of commands that run once ever.
      type: dict
      returned: always
claim:
  description: The claim. Its C(state) is V(ours) if this host should run the command.
  returned: when O(do=claim), but not in check mode
  type: dict
ended:
  description: How the command has ended, with C(status), C(seconds) and the path of its C(log).
  returned: when O(do=run), but not in check mode
  type: dict
"""
