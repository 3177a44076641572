"""Action plugin `fleet_lease`: lets one run at a time change a fleet; see `run/lease.py`.

It is delegated to the host that holds the lease. `state: present` takes it, or refuses and says whose it is; from then
on a process of its own renews it until the run ends. `state: absent` gives it back at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import ansible.utils.display
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, remote


class ActionModule(ActionBase):
    """Asks the script `lease` on the lease's host."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The run's `directory` on the control side, which later tasks look into.

        Raises:
            AnsibleActionFail: Another run has the lease, or its host does not answer.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        result.update(changed=False, directory=str(args.get("directory", "")))
        if self._task.check_mode:
            return result
        host = str(self._task.delegate_to or (task_vars or {})["inventory_hostname"])
        try:
            if args["state"] == "present":
                result["directory"] = str(self._acquire(str(args["app"]), host))
            else:
                self._release(str(args["app"]), Path(args["directory"]))
        except lease.Held as held:
            raise AnsibleActionFail(str(held)) from None
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"the lease of this fleet can't be had on {host}: {error}. Mend that there and run the same command "
                "again."
            ) from None
        return result

    def _ask(self, app: str, do: lease.Do, token: str, who: str = "") -> lease.Answer:
        command, stdin = remote.call("lease", lease.request(app, do, token, who))
        return dict(remote.answer(self._low_level_execute_command(command, in_data=stdin)))

    def _acquire(self, app: str, host: str) -> Path:
        token, main = secrets.token_hex(16), os.getppid()
        who = lease.owner(main)
        watch = lease.Watch(app, host)
        said = 0.0
        while True:
            begin = lease.now()
            answer = self._ask(app, "acquire", token, who)
            line = watch.judge(answer)
            if not line:
                break
            if begin - said > lease.INTERVAL:
                Display().display(line)
                said = begin
            time.sleep(1)
        if answer["silent"]:
            self._display.warning(
                f"{answer['silent']['owner']} has changed {app} and was silent for "
                f"{answer['silent']['age']:.0f} s: what it left unfinished is finished now"
            )
        directory = lease.make_directory()
        lease.note(directory, token=token, renewed=begin)

        def renew() -> None:
            # This process has none of Ansible's open files any more: neither its log nor the way to its screen.
            Display()._final_q = None  # noqa: SLF001 - there is no other way to take it back
            Display().verbosity = 0
            ansible.utils.display.logger = None
            lease.Renewer(directory, lambda do: self._ask(app, do, token, who), main).run()

        try:
            lease.detach(renew)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return directory

    def _release(self, app: str, directory: Path) -> None:
        token = lease.noted(directory, "token")
        lease.note(directory, released=True)
        self._ask(app, "release", str(token))
