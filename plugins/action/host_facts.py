"""Action plugin `host_facts`: collects what preflight and the roles need to know about a host, in one remote call.

It sends `plugin_utils/scripts/facts.py` as text and sets the fact `fleet`. (A module would cost five times as much,
because its wrapper is compiled on the host in each call.)

    ansible_facts['fleet'] = {
      reachable: true, reason: "",        # false, with the reason in one line; then nothing else is set
      hostname, architecture, uid,        # uid is 0 if privilege escalation works
      distribution: debian, distribution_version: "12", distribution_name,
      distribution_like: [],              # distributions that it is derived from, such as debian
      systemd_version: 252, systemd_is_init: true, python_version: "3.11.2",
      processors, memory_bytes, free_bytes: {/opt: …, /var: …},
      packages: [names of the installed Debian packages],
      versions: {redis-server: "5:7.0.15-1"},  # of a server that the host needs: the installed version, else the one to
                                          # install, empty if its package lists have none
      claims: {app, owner, users, ports, units, …},  # what the inventory wants there; see desired/claims.py
      redis_flavor: redis,                # wanted flavor on a host of Redis; else empty
      redis_data: {/var/lib/celery-fleet-redis/shop-broker: redis},  # owners of existing directories
      marks: [claims of all applications on the host],
      firewall_unconfirmed: false,        # whether no run has confirmed its table of the firewall yet
      silent: {"redis1:6379": "timed out"},  # ports of the fleet's Redis that a new host can't reach
      changed_logins: [admin],            # users of Redis who have another password there than in the inventory
      sentinels: [redis4],                # hosts outside of the inventory whose Sentinels the host's own one knows, and
                                          # which answer
      listeners: {"443": [{command, unit}]},         # processes on the ports of the claims
      redis_service: {broker: …},         # what servers that the fleet does not run answer; else missing
      record: {…},                        # its copy of the record of releases; null if it has none
      certificate: "-----BEGIN …",        # the host's certificate with its chain; empty if there is none yet
      has_client_key: false,              # whether it has a key for clients of Redis
      interpreter: {path, exists, version, places, others},  # celery_release_python; empty if a package brings it
      files: [existing nginx files for this application's ports, the setup and user of its backups],
      missing: [directories of the option that don't exist],
      clock_offset: 0.0,                  # seconds that its clock certainly differs from ours, + if ahead
    }

A host that can't be reached does not fail the task: `preflight_hosts` names all of them at once. Nothing is changed,
so it also runs in check mode.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleError
from ansible_collections.celery_fleet.core.plugins.module_utils import redact
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.nginx import site_file
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts import owners
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.specs import (
    ROLE_GROUPS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts, lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

PATHS: Final = ("/opt", "/var")
MARKS: Final = "/etc/celery-fleet/*/fleet.json"
# Of OpenSSH's many lines about a host's key. The connection by a jump host says more after them.
HOST_KEY: Final = re.compile(
    r"(Offending \S+ key in |Host key for \S+ has changed|Host key verification failed).*"
)


class ActionModule(FleetAction):
    """Runs one remote command per host."""

    _VALID_ARGS: frozenset[str] = frozenset({"directories"})

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Collect the facts; any problem with the host becomes `reachable: false`."""
        return {"ansible_facts": {"fleet": self._facts(args, variables)}}

    def _targets(
        self, variables: dict[str, Any], kinds: Sequence[str], redis: Sequence[str]
    ) -> list[tuple[str, int]]:
        """Return the hosts and ports of the fleet's Redis, and of its Sentinels, that this host has to reach."""
        host = variables["inventory_hostname"]
        ports = {
            kind: int(self._templar.template(variables[f"celery_app_{kind}_port"]))
            for kind in (*kinds, *(["sentinel"] if redis[1:] else []))
        }
        if redis[1:]:
            # Of several hosts, any may become the primary; only the first has the cache.
            return [
                (other, port)
                for other in redis
                for kind, port in ports.items()
                if other != host and (kind != "cache" or other == redis[0])
            ]
        if not redis or host in redis:
            return []
        return [
            (str(self._templar.template(variables[f"celery_app_{kind}_host"])), port)
            for kind, port in ports.items()
        ]

    def _request(
        self, args: dict[str, Any], variables: dict[str, Any], claims: dict[str, Any]
    ) -> dict[str, Any]:
        redis = self.groups(variables)["redis"]
        kinds = ("broker", "results", *self._cache(variables))
        names = {
            str(self._templar.template(variables.get(f"celery_app_{kind}_host") or redis[0]))
            for kind in kinds
            if variables.get(f"celery_app_{kind}_host") or redis
        }
        # Of several hosts, any may become the primary.
        names |= {*redis} if redis[1:] else set()
        flavor = self._flavor(variables)
        ports = sorted({int(port) for port in claims.get("ports", {}).values()})
        pki = f"/etc/celery-fleet/{claims.get('app')}/pki"
        return {
            "paths": PATHS,
            "names": sorted(names),
            "units": [f"{flavor}-server.service"] if flavor else [],
            "rollback": f"/etc/celery-fleet/{claims.get('app')}/firewall.nft.before",
            "versions": _versions(flavor, claims),
            "data": [
                f"/var/lib/celery-fleet-redis/{claims.get('app')}-{kind}"
                for kind in ("broker", "results")
            ]
            if flavor
            else [],
            "app": claims.get("app"),
            "targets": self._targets(variables, kinds, redis) if claims else [],
            "sentinel": {
                "data": f"/var/lib/celery-fleet-redis/{claims.get('app')}-sentinel/sentinel.conf",
                "hosts": f"{self._redis_directory(variables)}/{claims.get('app')}-hosts",
                "members": list(redis),
            },
            "logins": self._logins(variables, str(claims.get("app"))),
            "interpreter": self._interpreter(variables),
            "directories": list(args.get("directories") or []),
            "marks": MARKS,
            "ports": ports,
            "record": f"{lease.RECORDS}/{claims['app']}.json" if claims else "",
            "certificate": f"{pki}/host.crt" if claims else "",
            "client_key": f"{pki}/client.key" if claims else "",
            "files": [
                *(site_file(str(claims["app"]), kind) for kind in owners.BEHIND_NGINX),
                *owners.socket_files(str(claims["app"])),
            ]
            if claims
            else [],
        }

    def _logins(self, variables: dict[str, Any], app: str) -> dict[str, Any]:
        """Return what the script needs to find changed passwords, without these."""
        salt, wanted = secrets.token_hex(16), {}
        if self._flavor(variables):
            given = self._templar.template(variables.get("redis_passwords", {}))
            wanted = {
                str(name): hashlib.sha256((salt + str(word)).encode()).hexdigest()
                for name, word in (given if isinstance(given, dict) else {}).items()
            }
        path = f"{self._redis_directory(variables)}/{app}-broker/users.acl"
        return {"path": path, "salt": salt, "wanted": wanted}

    def _redis_directory(self, variables: dict[str, Any]) -> str:
        """Return the directory of Redis's configuration. The role's default is not known here."""
        given = variables.get("redis_config_directory") or "/etc/celery-fleet/redis"
        return str(self._templar.template(given))

    def _cache(self, variables: dict[str, Any]) -> tuple[str, ...]:
        wanted = self._templar.template(variables.get("celery_app_cache", False))
        return ("cache",) if wanted is True else ()

    def _flavor(self, variables: dict[str, Any]) -> str:
        """Return `redis` or `valkey`; empty on a host with neither. The role's default is not known here."""
        if variables["inventory_hostname"] not in self.groups(variables)["redis"]:
            return ""
        return str(self._templar.template(variables.get("redis_flavor", "redis")))

    def _interpreter(self, variables: dict[str, Any]) -> str:
        """Return the Python of releases; empty if the host needs none, or if a package of the run may bring it."""
        path = str(self._templar.template(variables.get("celery_release_python", "")))
        packages = self._templar.template(variables.get("celery_runtime_packages", []))
        name = Path(path).name if "/" in path else f"python{path}"
        brought = any(f"{package}-".startswith(f"{name}-") for package in packages)
        groups = self.groups(variables)
        needed = any(
            variables["inventory_hostname"] in groups[name]
            for name in (*ROLE_GROUPS["celery_release"], *ROLE_GROUPS["flower"])
        )
        return path if needed and not brought else ""

    def _claims(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Return what the inventory wants on the host, from celery_app's variables; empty without that role."""
        claims = variables.get("__celery_app_claims")
        return dict(self._templar.template(claims)) if claims else {}

    def _services(self, variables: dict[str, Any]) -> list[dict[str, str]]:
        """Return the Redis servers that the fleet does not run, as `scripts/redis_service.py` takes them."""
        urls = {
            kind: str(self._templar.template(variables.get(f"celery_app_{kind}_url", "")))
            for kind in ("broker", "results")
        }
        ca = str(self._templar.template(variables.get("celery_app_redis_ca", "")))
        return [{"kind": kind, "url": url, "ca": ca} for kind, url in urls.items() if url]

    def _asked(self, services: list[dict[str, str]]) -> dict[str, Any]:
        """Return what the servers answer to this host."""
        # A server without AUTH repeats its arguments.
        secrets = redact.secrets_of({service["kind"]: service["url"] for service in services})
        command, request = host_scripts.call("redis_service", {"servers": services})
        result = self._low_level_execute_command(command, in_data=request, sudoable=True)
        try:
            return dict(host_scripts.answer(result, secrets))
        except host_scripts.RemoteError as error:
            return {service["kind"]: {"error": str(error)} for service in services}

    def _facts(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        claims = self._claims(variables)
        interpreter = str(variables.get("ansible_python_interpreter") or "")
        command = host_scripts.command(
            host_scripts.script("facts"),
            interpreter if interpreter.startswith("/") else "python3",
        )
        before = time.time()
        try:
            answer = self._low_level_execute_command(
                command,
                in_data=json.dumps(self._request(args, variables, claims)).encode(),
                sudoable=True,
            )
        except AnsibleError as error:
            return _unreachable(str(error))
        after = time.time()
        if answer["rc"] != 0:
            return _unreachable(f"{answer['stderr']}\n{answer['stdout']}", answer["rc"])
        try:
            # A login shell may print a greeting before the answer.
            facts: dict[str, Any] = redact.printable(
                json.loads(answer["stdout"][answer["stdout"].index('{"clock"') :])
            )
        except ValueError:
            return _unreachable(
                "its answer can't be parsed: a login script may print to the output"
            )
        clock = facts.pop("clock")
        if services := self._services(variables):
            facts["redis_service"] = self._asked(services)
        facts["clock_offset"] = round(min(clock - before, 0.0) or max(clock - after, 0.0), 3)
        of_ours = {"claims": claims, "redis_flavor": self._flavor(variables)}
        return {"reachable": True, "reason": "", **of_ours, **facts}


def _versions(flavor: str, claims: dict[str, Any]) -> list[str]:
    """Return the packages of servers of which a host needs the versions."""
    found = {"redis": ["redis-server"], "valkey": ["valkey-server", "redis-server"]}.get(flavor, [])
    if claims.get("nginx"):
        found.append("nginx-common")
    if f"{claims.get('app')}-firewall.service" in claims.get("units", []):
        found.append("nftables")
    return found


def _unreachable(text: str, status: int = 0) -> dict[str, Any]:
    """Return the reason: what SSH says of the host's key, otherwise the last non-empty line."""
    lines = [line.strip().removesuffix(".") for line in text.splitlines() if line.strip()]
    about_key = [found[0] for line in lines if (found := HOST_KEY.search(line))]
    reason = ". ".join(about_key) or (lines[-1] if lines else "no reason was given")
    if status:
        reason = f"the command ended with {status}: {reason}"
    return {"reachable": False, "reason": reason[:300]}
