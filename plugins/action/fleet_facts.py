"""Action plugin `fleet_facts`: what preflight and the roles need to know of a host, in one cheap remote call.

It sends `plugin_utils/scripts/facts.py` as text (a module would cost five times as much: its wrapper
is compiled anew on the host in each call) and sets the fact `fleet`:

    ansible_facts['fleet'] = {
      reachable: true, reason: "",        # false, with one line that says why; then nothing else is there
      hostname, architecture, uid,        # uid is 0 where privilege escalation works
      distribution: debian, distribution_version: "12", distribution_codename: bookworm, distribution_name,
      systemd_version: 252, systemd_is_init: true, python_version: "3.11.2",
      processors, memory_bytes, free_bytes: {/opt: …, /var: …},
      packages: [names of the installed Debian packages],
      versions: {redis-server: "5:7.0.15-1"},  # of a host for Redis: what is installed, or else would be
      claims: {app, owner, users, ports, units, …},  # what the inventory wants there; see desired/claims.py:
      redis_flavor: redis,                # what the inventory wants of a host of Redis; else nothing
      redis_data: {/var/lib/celery-fleet-redis/shop-broker: redis},  # whose they are, as far as they are there
      marks: [the claims of all applications that lie there],
      listeners: {"443": [{command, unit}]},         # on the ports of the claims
      certificate: "-----BEGIN …",        # that the host shows, with its chain; nothing where it has none yet
      interpreter: {path, exists, version, places},  # celery_release_python; nothing where a package brings it
      files: [those that nginx serves this application's ports by, as far as they are there],
      clock_offset: 0.0,                  # seconds that its clock is surely off the control side's, + ahead
    }

A host that can't be reached does not fail the task: `preflight_hosts` names all of them at once. Nothing is
changed, so check mode runs it as well.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.nginx import site_file
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts import owners
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.specs import (
    ROLE_GROUPS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

PROBE: Final = Path(__file__).resolve().parents[1] / "plugin_utils/scripts/facts.py"
PATHS: Final = ("/opt", "/var")
MARKS: Final = "/etc/celery-fleet/*/fleet.json"


class ActionModule(FleetAction):
    """One remote command per host."""

    _VALID_ARGS: frozenset[str] = frozenset()

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Collect the facts; whatever goes wrong with the host becomes `reachable: false`."""
        return {"ansible_facts": {"fleet": self._facts(variables)}}

    def _request(self, variables: dict[str, Any], claims: dict[str, Any]) -> dict[str, Any]:
        redis = list(variables["groups"].get("redis", []))
        names = {
            str(self._templar.template(variables.get(f"celery_app_{kind}_host") or redis[0]))
            for kind in ("broker", "results")
            if variables.get(f"celery_app_{kind}_host") or redis
        }
        flavor = self._flavor(variables)
        ports = sorted({int(port) for port in claims.get("ports", {}).values()})
        return {
            "paths": PATHS,
            "names": sorted(names),
            "units": [f"{flavor}-server.service"] if flavor else [],
            "versions": [f"{flavor}-server"] if flavor else [],
            "data": [
                f"/var/lib/celery-fleet-redis/{claims.get('app')}-{kind}"
                for kind in ("broker", "results")
            ]
            if flavor
            else [],
            "interpreter": self._interpreter(variables),
            "marks": MARKS,
            "ports": ports,
            "certificate": f"/etc/celery-fleet/{claims.get('app')}/pki/host.crt" if claims else "",
            "files": [
                *(site_file(str(claims["app"]), kind) for kind in owners.BEHIND_NGINX),
                owners.web_socket(str(claims["app"])),
            ]
            if claims
            else [],
        }

    def _flavor(self, variables: dict[str, Any]) -> str:
        """`redis` or `valkey`; nothing on a host that has neither. The role's default is not known here."""
        if "redis" not in variables["group_names"]:
            return ""
        return str(self._templar.template(variables.get("redis_flavor", "redis")))

    def _interpreter(self, variables: dict[str, Any]) -> str:
        """The Python of releases; nothing where the host has none, or a package that the run installs may bring it."""
        path = str(self._templar.template(variables.get("celery_release_python", "")))
        packages = self._templar.template(variables.get("celery_runtime_packages", []))
        name = Path(path).name
        brought = any(f"{package}-".startswith(f"{name}-") for package in packages)
        builds = {*ROLE_GROUPS["celery_release"], *ROLE_GROUPS["flower"]}
        return "" if brought or not builds & {*variables["group_names"]} else path

    def _claims(self, variables: dict[str, Any]) -> dict[str, Any]:
        """What the inventory wants on the host, by celery_app's variables; nothing where that role is not there."""
        claims = variables.get("__celery_app_claims")
        return dict(self._templar.template(claims)) if claims else {}

    def _facts(self, variables: dict[str, Any]) -> dict[str, Any]:
        claims = self._claims(variables)
        interpreter = str(variables.get("ansible_python_interpreter") or "")
        command = host_scripts.command(
            PROBE.read_text(encoding="utf-8"),
            interpreter if interpreter.startswith("/") else "python3",
        )
        before = time.time()
        try:
            answer = self._low_level_execute_command(
                command,
                in_data=json.dumps(self._request(variables, claims)).encode(),
                sudoable=True,
            )
        except AnsibleError as error:
            return _unreachable(str(error))
        after = time.time()
        if answer["rc"] != 0:
            return _unreachable(f"{answer['stderr']}\n{answer['stdout']}", answer["rc"])
        try:
            # A login shell's greeting may stand before the answer.
            facts: dict[str, Any] = json.loads(
                answer["stdout"][answer["stdout"].index('{"clock"') :]
            )
        except ValueError:
            return _unreachable(
                "its answer is not what was asked for: a login script may print to the output"
            )
        clock = facts.pop("clock")
        facts["clock_offset"] = round(min(clock - before, 0.0) or max(clock - after, 0.0), 3)
        of_ours = {"claims": claims, "redis_flavor": self._flavor(variables)}
        return {"reachable": True, "reason": "", **of_ours, **facts}


def _unreachable(text: str, status: int = 0) -> dict[str, Any]:
    """The last line that says something, as the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason was given"
    if status:
        reason = f"the command ended with {status}: {reason}"
    return {"reachable": False, "reason": reason[:300]}
