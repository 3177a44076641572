#!/usr/bin/python
"""Documentation and program of `redis_restore`: restores a Redis instance of the host from a snapshot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_restore
short_description: Restore Redis instances from a backup
description:
  - The action plugin of the same name reads the backup, on the control node, and calls this module on the host.
  - V(prepare), V(begin) and V(restore) expect the snapshot of each instance in
    C(/var/lib/celery-fleet-redis/<instance>.restore).
  - A restore that was interrupted is finished by the next one with the same backup.
options:
  do:
    description:
      - V(read) checks the backup on the control node and returns its snapshots.
      - V(room) refuses a disk without room for the snapshots and the new data, after what V(discard) does.
      - V(prepare) checks the snapshots on the host, refuses instances with data, and makes the new data directories.
      - V(begin) notes that the data is going to be replaced, so that the next run accepts instances that are stopped.
      - V(restore) replaces the data, starts the instances and checks that they have loaded everything.
      - V(finish) removes the snapshots.
      - V(discard) removes the snapshots, unless a restore has begun that the next one finishes.
    type: str
    required: true
    choices: [read, room, prepare, begin, restore, finish, discard]
  backup:
    description: Directory of the backup on the control node. Required for V(read).
    type: path
  app:
    description: Name of the application, which the backup's name must begin with. Required for V(read).
    type: str
  instances:
    description:
      - The instances, as P(celery_fleet.core.redis_restored#filter) returns them. The action plugin packs them.
    type: raw
  kept:
    description:
      - The other instances, which the backup does not have, in the same form.
      - V(prepare) refuses them if another host is their primary, because the Sentinels forget that.
    type: raw
  overwrite:
    description: Whether data of the instances may be replaced; it is kept in another directory.
    type: bool
    default: false
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check the backup
  celery_fleet.core.redis_restore:
    do: read
    backup: backups/shop-20260102T030000Z
    app: shop
  register: backup
"""

RETURN = r"""
files:
  description: The snapshots, each with C(kind), C(path) and C(sha256).
  returned: when O(do=read)
  type: list
  elements: dict
instances:
  description: What became of each instance, by its name.
  returned: when O(do) is V(prepare), V(begin) or V(restore)
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import built
from ansible_collections.celery_fleet.core.plugins.module_utils.restore import staging
from ansible_collections.celery_fleet.core.plugins.module_utils.restore.restoration import (
    Restoration,
    RestoredInstance,
    RestoreHost,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.transport import unpack


def restorations(instances: list[dict[str, Any]], host: RestoreHost) -> dict[str, Restoration]:
    """Return the restore of each instance, by its name."""
    return {
        one["name"]: Restoration(built(RestoredInstance, one, one["name"]), host)
        for one in instances
    }


def main() -> None:
    """Take one step for all instances and print the answer."""
    module = AnsibleModule(
        argument_spec={
            "do": {
                "type": "str",
                "required": True,
                "choices": ["read", "room", "prepare", "begin", "restore", "finish", "discard"],
            },
            "backup": {"type": "path"},
            "app": {"type": "str"},
            "instances": {"type": "raw", "no_log": True},
            "kept": {"type": "raw", "no_log": True},
            "overwrite": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not isinstance(module.params["instances"], str):
        module.fail_json(msg="only the action plugin of this name can call this module")
    do, overwrite = module.params["do"], module.params["overwrite"]
    found: dict[str, Any] = {}
    changed = False
    try:
        host = RestoreHost()
        known = restorations(unpack(module.params["instances"]), host)
        if do in ("room", "discard"):
            changed = not module.check_mode and staging.discard(known.values())
            if do == "room":
                staging.refuse_full(known.values(), host)
            known = {}
        for name, one in known.items():
            if do == "finish":
                changed = (not module.check_mode and one.finish()) or changed
            elif do == "restore" and not module.check_mode:
                found[name] = one.restore(overwrite)
                changed = changed or found[name]["changed"]
            elif do == "begin" and not module.check_mode:
                found[name] = one.begin(overwrite)
            else:
                found[name] = one.check(overwrite)
        due = [known[name] for name, one in found.items() if one["state"] == "due"]
        if do == "prepare" and due:
            done = [known[name] for name, one in found.items() if one["state"] == "done"]
            for one in (*done, *restorations(unpack(module.params["kept"]), host).values()):
                one.refuse_replica()
            if not module.check_mode:
                for restoration in due:
                    restoration.prepare()
    except (UserError, RuntimeError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        again = "Fix that on this host and run the same command again"
        if do in ("room", "prepare", "discard"):
            module.fail_json(msg=f"{words}. Redis was not touched. {again}.")
        module.fail_json(msg=f"{words}. {again}, which finishes what was begun.")
    module.exit_json(changed=changed, instances=found)


if __name__ == "__main__":
    main()
