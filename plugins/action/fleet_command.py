"""Action plugin `fleet_command`: the commands of a release, claimed, run and marked; see `run/release_commands.py`.

`do: look`, `claim` and `settle` go to the host that keeps the marks (`delegate_to`), `do: run` to the one that runs the
command. A command that fails is dropped from the marks before it is told of, so that the next run begins it anew.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import Any

from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    lease,
    release_commands,
    remote,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """One step of one command on one host."""

    unanswered = "the release's commands can't be asked for"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the step's answer; a command that did not succeed fails the task."""
        if args["do"] == "look":
            return {"marks": self._look(args, variables)}
        if self._task.check_mode:
            return {}
        steps = {"claim": self._claim, "run": self._run, "settle": self._settle}
        try:
            with lease.held(variables, check=False):
                return steps[str(args["do"])](args, variables)
        except release_commands.CommandError as error:
            # What it says of "there" is this host.
            raise UserError(f"{variables['inventory_hostname']}: {error}") from None

    def _claims(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.ask("claims", asked)

    def _scope(self, command: dict[str, Any]) -> str:
        return "fleet" if command["on"] == "one" else "host"

    def _look(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        scope = str(args["scope"])
        return self._claims(
            release_commands.question("look", str(args["app"]), scope, str(args["release"]))
        )

    def _claim(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command = dict(args["command"])
        here = str(variables["inventory_hostname"])
        word = secrets.token_hex(8)
        who = lease.owner(os.getppid())
        answer = release_commands.claim(
            lambda: self._claims(
                release_commands.question(
                    "claim",
                    str(args["app"]),
                    self._scope(command),
                    str(args["release"]),
                    command,
                    host=here,
                    claim=word,
                    owner=who,
                )
            ),
            command,
            str(self._task.delegate_to or here),
            say=lambda line: Display().display(f"{here}: {line}"),
        )
        return {"claim": dict(answer)}

    def _run(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command, claim = dict(args["command"]), dict(args["claim"])
        here = str(variables["inventory_hostname"])
        program = remote.program(f"{args['runtime']}/celery_fleet/system/release_command.py")

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            done = self._low_level_execute_command(program, in_data=json.dumps(request).encode())
            # Ansible shows what a task returns: -v does, a callback or a log of the run may.
            return dict(remote.answer(done, self.secrets))

        ended = release_commands.carry_out(
            ask,
            {
                "app": str(args["app"]),
                "name": command["name"],
                "release": str(args["release"]),
                "claim": claim["claim"],
                "argv": [str(word) for word in command["argv"]],
                "timeout": float(command["timeout"]),
            },
            resumed=bool(claim["resumed"]),
            say=lambda line: Display().display(f"{here}: {line}"),
        )
        return {"changed": True, "ended": dict(ended)}

    def _settle(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command, claim, ended = dict(args["command"]), dict(args["claim"]), dict(args["ended"])
        here = str(variables["inventory_hostname"])
        well = ended["status"] == 0
        self._claims(
            release_commands.question(
                "done" if well else "drop",
                str(args["app"]),
                self._scope(command),
                str(args["release"]),
                command,
                host=here,
                claim=claim["claim"],
                owner=lease.owner(os.getppid()),
            )
        )
        if not well:
            words = release_commands.failure(here, command, str(args["release"]), ended)
            raise UserError(words)
        Display().display(
            f"{here}: {command['name']} is done, in {float(ended['seconds']):g} s; what it printed: {ended['log']}"
        )
        return {}
