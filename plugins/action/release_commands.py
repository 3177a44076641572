"""Action plugin `release_commands`: runs release commands and marks the finished ones; see `run/release_commands.py`.

`do: look`, `start` and `finish` go to the host that keeps the marks (`delegate_to`), `do: run` to the one that runs the
command, `do: migrations` to any that has the release (see `run/migrations.py`). If a command fails, its mark is removed
before the task fails, so the next run starts it again.
"""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    host_scripts,
    lease,
    migrations,
    release_commands,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """One step of one command on one host."""

    unanswered = "the release's commands can't be asked for"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the step's result. The task fails if the command failed or if its result is unknown."""
        if args["do"] == "look":
            return {"marks": self._look(args, variables)}
        if self._task.check_mode:
            return {}
        steps = {
            "migrations": self._migrations,
            "start": self._start,
            "run": self._run,
            "finish": self._finish,
        }
        try:
            with lease.held(variables, check=False):
                return steps[str(args["do"])](args, variables)
        except release_commands.ReleaseCommandError as error:
            # In the message "there" means this host.
            raise UserError(f"{variables['inventory_hostname']}: {error}") from None

    def _mark(self, do: str, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command = dict(args["command"])
        asked = release_commands.question(
            do,
            str(args["app"]),
            "fleet" if command["hosts"] == "one" else "host",
            str(args["release"]),
            command,
            host=str(variables["inventory_hostname"]),
        )
        return self.ask("marks", asked)

    def _look(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        scope = str(args["scope"])
        asked = release_commands.question("look", str(args["app"]), scope, str(args["release"]))
        return self.ask("marks", asked)

    def _migrations(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        release = str(args["release"])
        asked = migrations.command(
            str(args["app"]),
            str(args["root"]),
            str(args["runtime"]),
            release,
            float(args["timeout"]),
        )
        done = self._low_level_execute_command(asked)
        here = str(variables["inventory_hostname"])
        required = boolean(args.get("required") or False)
        for line in migrations.lines(here, release, done, self.secrets, required=required):
            Display().display(line)
        return {}

    def _start(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        here = str(variables["inventory_hostname"])
        answer = self._mark("start", args, variables)
        keeper = str(self._task.delegate_to or here)
        release_commands.check_mark(answer, args["command"], here, keeper)
        return {"mark": answer}

    def _run(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command = dict(args["command"])
        here = str(variables["inventory_hostname"])
        program = host_scripts.program(f"{args['runtime']}/celery_fleet/system/release_command.py")

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            done = self._low_level_execute_command(program, in_data=json.dumps(request).encode())
            # Redact the result, because -v, a callback or a log of the run may show it.
            return dict(host_scripts.answer(done, self.secrets))

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
                "umask": str(command["umask"]),
            },
            say=lambda line: Display().display(f"{here}: {line}"),
        )
        return {"changed": True, "ended": dict(ended)}

    def _finish(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        command, ended = dict(args["command"]), dict(args["ended"])
        here = str(variables["inventory_hostname"])
        well = ended["status"] == 0
        self._mark("done" if well else "drop", args, variables)
        if not well:
            raise UserError(release_commands.failure(here, command, str(args["release"]), ended))
        Display().display(
            f"{here}: {command['name']} is done, in {float(ended['seconds']):g} s; what it printed: {ended['log']}"
        )
        return {}
