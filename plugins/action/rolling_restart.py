"""Action plugin `rolling_restart`: starts, restarts and removes the workers of a fleet in one order over all hosts.

`phase: open` runs once, finds out what has to be done and begins the roll. `start`, `restart` and `finish` run on each
host, in separate processes, and take the host's turns. `report` prints the figures. The rules are in
`restart/order.py`, a turn in `worker_restart.py`, a host's part in `host_restarts.py`; this file connects them to
Ansible.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import restart_names
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart import (
    canary,
    canary_choice,
    census,
    host_restarts,
    order,
    state,
    worker_restart,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.forecast import describe
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    host_scripts,
    lease,
    rendering,
    report,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

# Phase of the playbook → kind of turn.
KINDS: dict[str, order.Kind] = {"start": "start", "restart": "restart", "finish": "remove"}
_NO_HOSTS: dict[str, list[str]] = {phase: [] for phase in KINDS}

#: Seconds for asking which workers run. A host with busy processors needs most of them just to start asking.
_ASK = 30.0


class ActionModule(FleetAction):
    """Runs one phase of a roll."""

    _supports_check_mode = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Carry out the phase. If a worker of this host does not serve, the task fails and says why and what to do."""
        self._variables, self._args = variables, args
        self._place = dict(self._args.get("place") or {})
        self._turns = dict(self._args.get("turns") or {})
        self._state = state.RollState(Path(str(self._args["directory"])))
        self._python = ""
        phase = self._args["phase"]
        if phase == "open":
            return self._open()
        if phase == "report":
            self._say_report()
            return {"canary": self._state.report()["canary"]}
        with lease.at_work(self._state.directory):
            changed = self._roll(KINDS[phase])
            if phase == "finish" and self._turns.get("wanted") and not self._state.failure:
                changed |= self._finish()
        return {"changed": changed}

    # -- beginning and end -----------------------------------------------------------------------------

    def _open(self) -> dict[str, Any]:
        args, hostvars = self._args, self._variables["hostvars"]
        present = [str(host) for host in args["hosts"]]
        plans = {host: hostvars[host].get("__fleet_plan") or {} for host in present}
        items = [
            item
            for plan in plans.values()
            for item in plan.get("items", ())
            if item["part"] == "celery_worker"
        ]
        force = boolean(args["force"])
        if not force and not any(plans.values()):
            raise AnsibleActionFail(
                "the plan says which workers to restart, and this run has no plan: use celery_fleet.core.site, with "
                "--tags for a part of it, instead of the role by itself"
            )
        due = [host for host, plan in plans.items() if "celery_worker" in plan.get("due", ())]
        if not force and not due:
            return {"turns": False, "deferred": [], "hosts": _NO_HOSTS, "whole": True}
        self._check_lease()
        findings = census.Findings(
            present=present,
            items=items,
            # If no worker stops, none has to be asked.
            census=self._census()
            if force or any(item["action"] != "start" for item in items)
            else {},
            active={host: census.active_units(hostvars[host]) for host in present},
            left={host: _left(hostvars[host]) for host in present},
        )
        found = census.workers(
            str(args["app"]),
            hostvars,
            [str(host) for host in args["inventory"]],
            args["instances"],
            findings,
            force=force,
            only=restart_names(args["only"]),
        )
        policy = order.Policy(int(args["min_capacity"]), int(args["batch"]), self._canary(found))
        self._state.open(found, policy, str(args["report"]))
        limits = canary.limits(args.get("canary"))
        lines = describe(found, policy, limits.seconds if limits else 0.0)
        if lines:
            Display().display("\n" + "\n".join(lines) + "\n")
        stay = order.deferred(found, policy)
        hosts = {
            phase: {worker.host for worker in found if worker.kind == kind}
            for phase, kind in KINDS.items()
        }
        # A worker that seems stopped may turn out to serve; then it is restarted in its turn.
        hosts["restart"] |= hosts["start"]
        hosts["finish"] |= set(due)
        return {
            "turns": any(hosts.values()),
            "deferred": sorted(stay),
            # Whether no differing worker is left for a later run.
            "whole": not stay and not restart_names(args["only"]),
            "hosts": {phase: sorted(names) for phase, names in hosts.items()},
        }

    def _canary(self, workers: Sequence[order.FleetWorker]) -> str | None:
        """Return the node of the worker to observe first; None if the run observes none."""
        asked = self._args.get("canary") or {}
        if not canary.limits(asked):
            return None
        forks = self._variables.get("ansible_forks")
        return canary_choice.canary(workers, str(asked.get("worker") or ""), forks)

    def _census(self) -> dict[str, Any]:
        """Return the workers that answer; empty if the fleet was never deployed."""
        if not self._interpreter():
            return {}
        answer = self.probe({"census": True, "timeout": _ASK})
        if answer.get("errors"):
            raise AnsibleActionFail(
                f"the running workers can't be asked, so none may stop: {'; '.join(answer['errors'])}. "
                "None was stopped. Next, on a host with workers: celery-fleet status; then run the same command again."
            )
        return dict(answer["census"])

    def _finish(self) -> bool:
        """Apply the rest: surplus files, links, enabled units."""
        # If workers have to stay for now, nothing may be stopped.
        options = {"units": "leave"} if self._turns.get("deferred") else {"restart": False}
        answer = self._reconcile(options)
        if answer.get("failed"):
            raise AnsibleActionFail(str(answer.get("msg")))
        return bool(answer.get("changed"))

    def _say_report(self) -> None:
        found = self._state.report()
        if found["turns"]:
            lines = report.columns(state.table(found))
            Display().display("\n" + "\n".join([*lines, f"in {found['seconds']:.1f} s"]) + "\n")

    # -- the turns of a host ---------------------------------------------------------------------------

    def _roll(self, kind: order.Kind) -> bool:
        host = str(self._variables["inventory_hostname"])
        main = os.getppid()

        def trouble() -> str:
            # If Ansible was killed, another run may be at work already; systemd finishes what was begun.
            if os.getppid() != main:
                raise host_restarts.HostRestartError("ansible-playbook has ended")
            return lease.trouble(self._state.directory)

        timeout = float(self._turns["timeout"])
        restarts = host_restarts.HostRestarts(
            host, self._state, self, self._new_restart, timeout, trouble
        )
        self._state.join(host)
        try:
            return restarts.take_turns(kind) > 0
        finally:
            if self._state.leave(host):
                self._say_report()

    def _new_restart(
        self, begun: order.Turn, worker: order.FleetWorker
    ) -> worker_restart.WorkerRestart:
        turns, place = self._turns, self._place
        return worker_restart.WorkerRestart(
            begun,
            worker,
            worker_restart.WorkerPaths(
                str(place["configuration"]), str(place["root"]), str(place["state"])
            ),
            timeout=float(turns["timeout"]),
            tasks=tuple(census.needed_tasks(worker.queues, turns["schedule"], turns["routes"])),
            forced=not turns["wanted"] or boolean(turns["force"]),
            limits=canary.limits(turns.get("canary")),
        )

    # -- operations on the host: `host_restarts.HostConnection` ----------------------------------------

    def say(self, line: str) -> None:
        """Show a line of progress."""
        Display().display(line)

    def warn(self, line: str) -> None:
        """Show a warning."""
        Display().warning(line)

    def move(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run the script `turn` on the host."""
        try:
            return self.ask("turn", request, self.secrets)
        except (host_scripts.RemoteError, AnsibleConnectionFailure) as error:
            raise host_restarts.ConnectionLostError(str(error)) from None

    def reconcile(self) -> frozenset[str]:
        """Write the host's files; return the units that differ from the desired state."""
        try:
            answer = self._reconcile({"units": "leave"})
        except AnsibleConnectionFailure as error:
            raise host_restarts.ConnectionLostError(str(error)) from None
        if answer.get("failed"):
            raise host_restarts.ReconcileFailedError(str(answer.get("msg")))
        return frozenset(str(item["unit"]) for item in answer["pending"])

    def probe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run `celery_fleet.ops.probe` on the host."""
        place = self._place
        whole = {"settings": place["settings"], "nodes": {}, **request}
        try:
            command = host_scripts.probe(
                self._interpreter(), str(place["runtime"]), str(place["user"])
            )
            return self.ask_probe(command, whole)
        except AnsibleConnectionFailure as error:
            raise host_restarts.ConnectionLostError(str(error)) from None
        except host_scripts.RemoteError as error:
            return {"nodes": {}, "errors": [f"the probe can't be run: {error}"]}

    def _reconcile(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Call the module `reconcile`, as the action plugin of that name does."""
        if not self._turns.get("wanted"):
            return {"pending": []}
        renderer = rendering.Renderer(self._templar, self._loader, self._variables)
        sent = renderer.module_args(renderer.wanted(self._turns["wanted"]), **options)
        return self.execute("reconcile", sent, self._variables)

    def _interpreter(self) -> str:
        """Return a Python with the application's Celery on this host; empty if there is none yet."""
        if not self._python:
            root = str(self._place["root"])
            found = self._low_level_execute_command(
                f"ls -d {root}/pins/worker-*/venv/bin/python {root}/releases/*/venv/bin/python 2>/dev/null; exit 0"
            )
            # Skip that of a second instance: it is removed together with it.
            paths = [p for p in str(found["stdout"]).split() if f"{order.STAND_IN}/" not in p]
            self._python = next(iter(paths), "")
        return self._python

    def _check_lease(self) -> None:
        trouble = lease.trouble(self._state.directory)
        if trouble:
            raise AnsibleActionFail(f"{trouble}. Run the same command again.")


def _left(variables: Mapping[str, Any]) -> list[str]:
    """Return the names of second instances that have files on a host. The plan finds their units by itself."""
    looked = (variables.get("__celery_worker_left") or {}).get("files") or ()
    return [Path(file["path"]).name.removeprefix("worker-").removesuffix(".env") for file in looked]
