"""Action plugin `release_history`: chooses a run's release and computes the record; see `run/release_history.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.state import RollState
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    release_history,
    release_record,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """`do: look` asks a host; the others compute something on the control node, once for all hosts."""

    unanswered = "the releases of the host can't be listed"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return what was asked for: `there`, `why`, a `choice` with the `record` to write, or the `record`."""
        if args["do"] == "look":
            return {"there": self.ask("releases", {"root": str(args["root"])})}
        if args["do"] == "note":
            return {"why": str(args.get("why") or "")}
        record = dict(args.get("record") or {})
        if args["do"] == "record":
            return {"record": self._recorded(record, args, str(args["result"]))}
        if args["do"] == "refuse":
            return self._refused(record, {**args, "why": self._failure(variables)})
        hosts = release_history.Hosts(
            {
                str(host): variables["hostvars"][host]["__celery_release_there"]["there"]
                for host in args["hosts"]
            }
        )
        if args["do"] == "check":
            release_history.require_way_back(
                str(args["release"]),
                str(args["choice"]["current"]),
                hosts,
                accepted=boolean(args.get("accepted") or False),
            )
            return {}
        asked, why = str(args.get("asked") or ""), str(args.get("why") or "")
        if args["do"] == "deploy":
            choice = release_history.to_deploy(asked, args["source"], record, hosts, why)
            why = f"the deploy of {choice.what} has not succeeded"
        else:
            accepted = boolean(args.get("accepted") or False)
            choice = release_history.to_go_back(asked, record, hosts, accepted=accepted, why=why)
        held = choice.current if args["do"] == "deploy" else choice.kept
        if held:
            why = why or release_record.BACK
            record = release_record.held(record, held, why, tasks=hosts.tasks(held))
        return {"choice": choice.as_dict(), "record": record}

    def _failure(self, variables: dict[str, Any]) -> str:
        """Return why the deploy failed, from a host where it did; a host that was lost says nothing."""
        noted = [found.get("__celery_release_refusal") for found in variables["hostvars"].values()]
        return next((note["why"] for note in noted if note and note["why"]), "a host was lost")

    def _refused(self, record: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        """Record that a deploy has failed; return what `back` would for the release that served before."""
        record = self._recorded(record, args, release_record.REFUSED)
        choice = release_history.after_refusal(str(args["release"]), args["choice"], record)
        return {
            "choice": choice.as_dict(),
            "record": release_record.held(record, choice.kept, choice.why, tasks=choice.tasks),
        }

    def _recorded(
        self, record: dict[str, Any], args: dict[str, Any], result: str
    ) -> dict[str, Any]:
        roll = RollState(Path(str(args["directory"])))
        return release_record.recorded(
            record,
            str(args["release"]),
            args.get("choice"),
            result,
            roll.report()["canary"] if roll.exists else None,
            release_record.first_line(str(args.get("why") or "")),
        )
