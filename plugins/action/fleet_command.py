"""Action plugin `fleet_command`: run the commands of a release and mark what was done; see `run/release_commands.py`.

`do: look`, `start` and `settle` go to the host that keeps the marks (`delegate_to`), `do: run` to the one that runs the
command. If a command fails, its mark is removed before the task fails, so the next run starts it again.
"""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    lease,
    payload,
    release_commands,
    remote,
)


class ActionModule(ActionBase):
    """One step of one command on one host."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The step's answer.

        Raises:
            AnsibleActionFail: The command failed, or its result is not known; the message says what to do next.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(changed=False)
        args, variables = self._task.args, task_vars or {}
        steps = {"look": self._look, "start": self._start, "run": self._run, "settle": self._settle}
        try:
            if args["do"] == "look":
                result["marks"] = self._look(args, variables)
            elif not self._task.check_mode:
                with lease.held(variables, check=False):
                    result.update(steps[str(args["do"])](args, variables))
        except (release_commands.CommandError, lease.LostError) as error:
            raise AnsibleActionFail(f"{variables['inventory_hostname']}: {error}") from None
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"{variables['inventory_hostname']}: the release's commands can't be asked for: {error}. "
                "Run the same command again."
            ) from None
        return result

    def _marks(self, asked: dict[str, Any]) -> dict[str, Any]:
        command, stdin = remote.call("marks", asked)
        done = self._low_level_execute_command(command, in_data=stdin)
        return dict(remote.answer(done))

    def _mark(self, do: str, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command = dict(args["command"])
        return self._marks(
            release_commands.question(
                do,
                str(args["app"]),
                "fleet" if command["on"] == "one" else "host",
                str(args["release"]),
                command,
                host=str(variables["inventory_hostname"]),
            )
        )

    def _look(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        scope = str(args["scope"])
        return self._marks(
            release_commands.question("look", str(args["app"]), scope, str(args["release"]))
        )

    def _start(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        here = str(variables["inventory_hostname"])
        answer = self._mark("start", args, variables)
        keeper = str(self._task.delegate_to or here)
        release_commands.check_mark(answer, args["command"], here, keeper)
        return {"mark": answer}

    def _run(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command = dict(args["command"])
        here = str(variables["inventory_hostname"])
        program = remote.program(f"{args['runtime']}/celery_fleet/system/release_command.py")
        # Ansible shows what a task returns: -v does, a callback or a log of the run may.
        known = payload.secrets(self._templar)

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            done = self._low_level_execute_command(program, in_data=json.dumps(request).encode())
            return dict(remote.answer(done, known))

        ended = release_commands.carry_out(
            ask,
            {
                "app": str(args["app"]),
                "name": command["name"],
                "release": str(args["release"]),
                "mark": "once" if command["when"] == "once" else str(args["release"]),
                "resumed": bool(args["mark"]["resumed"]),
                "argv": [str(word) for word in command["argv"]],
                "timeout": float(command["timeout"]),
            },
            say=lambda line: Display().display(f"{here}: {line}"),
        )
        return {"changed": True, "ended": dict(ended)}

    def _settle(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command, ended = dict(args["command"]), dict(args["ended"])
        here = str(variables["inventory_hostname"])
        well = ended["status"] == 0
        self._mark("done" if well else "drop", args, variables)
        if not well:
            raise AnsibleActionFail(
                release_commands.failure(here, command, str(args["release"]), ended)
            )
        Display().display(
            f"{here}: {command['name']} is done, in {float(ended['seconds']):g} s; what it printed: {ended['log']}"
        )
        return {}
