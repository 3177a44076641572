"""Action plugin `removal_report`: plans and reports a removal, once for all hosts.

It is a thin layer over `run/removal_plan.py`. `do: check` uses the facts of `host_facts` to refuse what can't be
removed; `plan` prints what would be removed, `gate` checks once more whether messages would be lost, and `end` prints
what was removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import renamed
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import plan, removal_plan
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Reads the hosts' answers; contacts no host."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Run one of the four steps.

        Raises:
            AnsibleActionFail: The removal may not continue; the message lists all reasons.
        """
        hosts = [str(host) for host in variables["ansible_play_hosts_all"]]
        self._variables = variables
        self._facts = {host: self._of(host, "ansible_facts").get("fleet") or {} for host in hosts}
        self._missing = {
            host: str(facts.get("reason") or "")
            for host, facts in self._facts.items()
            if not facts.get("reachable")
        }
        self._found = {
            host: self._of(host, "__fleet_remove_look").get("found") or {}
            for host in hosts
            if host not in self._missing
        }
        steps = {"check": self._check, "plan": self._plan, "gate": self._gate, "end": self._end}
        return steps[str(args["do"])]()

    def _of(self, host: str, name: str) -> Mapping[str, Any]:
        found = self._variables["hostvars"].raw_get(host).get(name)
        return found if isinstance(found, Mapping) else {}

    @property
    def _app(self) -> str:
        return str(self._task.args["app"])

    @property
    def _left_out(self) -> list[str]:
        return [host for host in self.groups(self._variables)["fleet"] if host not in self._facts]

    @property
    def _staying(self) -> list[str]:
        """The Redis hosts that this run leaves as they are."""
        return [host for host in self.groups(self._variables)["redis"] if host not in self._facts]

    def _check(self) -> dict[str, Any]:
        args, groups = self._task.args, self.groups(self._variables)
        # The playbook has no preflight.
        refusals = renamed.told(self._variables)
        refusals += removal_plan.refusals(
            args["app"],
            str(args["owner"]),
            self._facts,
            redis=groups["redis"],
            fleet=groups["fleet"],
            keep=args["keep"],
            without=boolean(args["without"], strict=False),
        )
        self._refuse(refusals)
        there = [
            host for host, facts in self._facts.items() if removal_plan.marked(self._app, facts)
        ]
        return {"there": there, "missing": sorted(self._missing)}

    def _refuse(self, reasons: list[str]) -> None:
        if reasons:
            title = f"Nothing is removed, {count(len(reasons), 'reason')}:"
            raise AnsibleActionFail("\n".join([title, *(f"  {reason}." for reason in reasons)]))

    def _plan(self) -> dict[str, Any]:
        args = self._task.args
        document = {
            "format": 1,
            "app": self._app,
            "hosts": {host: dict(found) for host, found in self._found.items()},
            "missing": self._missing,
        }
        if args.get("path"):
            plan.save(str(args["path"]), document)
        Display().display("\n" + removal_plan.text(self._app, self._found, self._missing) + "\n")
        messages = {host: found.get("messages") or {} for host, found in self._found.items()}
        self._refuse(
            removal_plan.busy(self._found) + removal_plan.uncopied(messages, self._staying)
        )
        return {
            "changes": removal_plan.changes(self._found),
            "messages": removal_plan.unsettled(
                messages, args["keep"], elsewhere=bool(self._staying)
            ),
            "staying": self._staying,
        }

    def _gate(self) -> dict[str, Any]:
        messages = {
            host: self._of(host, "__fleet_remove_messages").get("messages") or {}
            for host in self._found
        }
        unsettled = removal_plan.unsettled(
            messages, self._task.args["keep"], elsewhere=bool(self._staying)
        )
        if unsettled and not boolean(self._task.args["discard"], strict=False):
            raise AnsibleActionFail(
                f"Everything except Redis is stopped, and nothing was removed yet: {removal_plan.remedy(unsettled)}\n"
                "Run this playbook again then; or site.yml, which starts all of it again."
            )
        return {"number": sum(removal_plan.number_of(one) for one in messages.values())}

    def _end(self) -> dict[str, Any]:
        removed = {
            host: list(self._of(host, "__fleet_remove_done").get("removed") or [])
            for host in self._found
        }
        text = removal_plan.ended(self._app, self._found, removed, self._missing, self._left_out)
        if text:
            Display().display(f"\n{text}\n")
        return {"missing": sorted(self._missing)}
