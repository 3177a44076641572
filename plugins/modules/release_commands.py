#!/usr/bin/python
"""Documentation of `release_commands`: the action plugin of the same name does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_commands
short_description: Run the commands of a release, each once
description:
  - Marks a command as started, runs it and marks it as done, so that no other run repeats it. See
    C(celery_release_commands).
  - V(look), V(start) and V(finish) go to the host that keeps the marks. V(run) goes to the host that runs the command,
    V(migrations) to any host that has the release.
  - In check mode only V(look) does anything.
options:
  do:
    description:
      - V(look) reads the marks. V(start) marks O(command) as started. It fails if a host outside of this run has
        started it.
      - V(run) runs O(command) and waits for its end.
      - V(finish) marks it as done. If it has failed, its mark is removed and the task fails.
      - V(migrations) shows the pending migrations of a Django application, and changes nothing.
    type: str
    required: true
    choices: [look, start, run, finish, migrations]
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
    description:
      - The command, as P(celery_fleet.core.release_commands_due#filter) returns it, for V(start), V(run) and V(finish).
    type: dict
  mark:
    description: What V(start) has returned, for V(run).
    type: dict
  ended:
    description: How the command has ended, which V(run) has returned, for V(finish).
    type: dict
  runtime:
    description: Directory of the host-side runtime, for V(run) and V(migrations).
    type: str
  root:
    description: Directory of the application's releases, for V(migrations).
    type: str
  timeout:
    description: Seconds that V(migrations) may take.
    type: float
  required:
    description: With V(migrations), fail if the pending migrations can't be listed.
    type: bool
    default: false
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Mark the command as started
  celery_fleet.core.release_commands:
    do: start
    app: shop
    release: "{{ source.id }}"
    command: "{{ command }}"
  delegate_to: redis1
  register: started

- name: Run the command
  celery_fleet.core.release_commands:
    do: run
    app: shop
    release: "{{ source.id }}"
    command: "{{ command }}"
    mark: "{{ started.mark }}"
    runtime: "{{ celery_app_runtime }}"
  when: started.mark.state == 'started'
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
mark:
  description: The mark. Its C(state) is V(started) if this host should run the command, and V(done) if it should not.
  returned: when O(do=start), but not in check mode
  type: dict
ended:
  description: How the command has ended, with C(status), C(seconds) and the path of its C(log).
  returned: when O(do=run), but not in check mode
  type: dict
"""
