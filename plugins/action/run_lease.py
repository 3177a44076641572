"""Action plugin `run_lease`: lets one run at a time change a fleet; see `run/lease.py`.

It is delegated to the host that keeps the lease. `state: present` takes the lease, or fails and says who has it; a
background process then renews it until the run ends. `state: absent` returns it at once. `state: look` takes none. The
answer brings the record of the fleet's releases: that of the same host, or a newer copy.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import ansible.utils.display
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, release_record
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Runs the script `lease` on the lease's host."""

    unanswered = "the lease of this fleet can't be taken"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the run's `directory` on the control node, and `releases`, the record of the fleet's releases.

        If another run has the lease, the task fails.
        """
        app = str(args["app"])
        if args["state"] == "look" or (self._task.check_mode and args["state"] == "present"):
            looked = self._ask(app, "look", "")
            return {"directory": "", "releases": self._newest(looked["record"], app, variables)}
        if self._task.check_mode:
            return {"directory": str(args.get("directory", ""))}
        if args["state"] == "present":
            host = str(self._task.delegate_to or variables["inventory_hostname"])
            directory, releases = self._acquire(app, host)
            return {"directory": str(directory), "releases": self._newest(releases, app, variables)}
        self._release(app, Path(args["directory"]))
        return {"directory": str(args["directory"])}

    def _ask(self, app: str, do: lease.Do, token: str, who: str = "") -> lease.Answer:
        return self.ask("lease", lease.request(app, do, token, who))

    def _acquire(self, app: str, host: str) -> tuple[Path, dict[str, Any]]:
        token, main = secrets.token_hex(16), os.getppid()
        who = lease.owner(main)
        watch = lease.HolderWatch(app, host)
        said = 0.0
        while True:
            begin = lease.now()
            answer = self._ask(app, "acquire", token, who)
            line = watch.waiting_line(answer)
            if not line:
                break
            if begin - said > lease.INTERVAL:
                Display().display(line)
                said = begin
            time.sleep(1)
        if answer["silent"]:
            self._display.warning(
                f"{answer['silent']['owner']} has changed {app} and was silent for "
                f"{answer['silent']['age']:.0f} s: this run finishes what it left unfinished"
            )
        directory = lease.make_directory()
        lease.note(directory, token=token, renewed=begin)

        def renew() -> None:
            # This process has closed Ansible's files, so it can't use its log or display.
            Display()._final_q = None  # noqa: SLF001 - there is no other way to take it back
            Display().verbosity = 0
            ansible.utils.display.logger = None
            lease.LeaseRenewer(directory, lambda do: self._ask(app, do, token, who), main).run()

        try:
            lease.detach(renew)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return directory, dict(answer["record"])

    def _release(self, app: str, directory: Path) -> None:
        token = lease.noted(directory, "token")
        lease.note(directory, released=True)
        self._ask(app, "release", str(token))

    def _newest(
        self, record: dict[str, Any], app: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the newest record of the fleet's releases.

        The lease's host has none if it is new, and an old one if it was away while another host kept the lease.

        Args:
            record: That of the lease's host; empty if it has none.
            app: celery_app_name. A cache of facts may have those of other fleets in the inventory.
            variables: Those of the task; each host's facts have its copy.
        """
        hosts = variables["hostvars"].values()
        facts = [(host.get("ansible_facts") or {}).get("fleet") or {} for host in hosts]
        own = [fact for fact in facts if (fact.get("claims") or {}).get("app") == app]
        copies: list[Any] = [fact.get("record") for fact in own]
        sound = filter(release_record.is_sound, copies)
        newest: dict[str, Any] = max([record, *sound], key=release_record.changed)
        if record and newest != record:
            self._display.warning(
                "the record of the releases on the host of the lease is older than a copy on another host; this run "
                "takes the copy"
            )
        return newest
