"""Action plugin `preflight_hosts`: refuses hosts that can't be reached or are not supported, all in one message.

It reads the facts that `host_facts` has collected. Its one option, `asked`, says what each host needs;
`preflight_inventory` returns it.
"""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.certificates import (
    check_client_keys,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.reachability import (
    check_facts,
    left_out_remedy,
    missing,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.replication import (
    check_first_primary,
    check_leaving,
    check_logins,
    check_ports,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
    as_mapping,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import parts_in


class ActionModule(FleetAction):
    """Runs once, for all hosts of the play."""

    _requires_connection = False
    _VALID_ARGS: frozenset[str] = frozenset({"asked"})

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Check the hosts.

        Raises:
            AnsibleActionFail: Hosts are refused; the message lists all errors of all hosts.
        """
        hosts = [str(host) for host in variables["ansible_play_hosts_all"]]
        facts = {
            host: variables["hostvars"].raw_get(host).get("ansible_facts", {}).get("fleet")
            for host in hosts
        }
        groups = {
            str(name): [str(host) for host in members]
            for name, members in variables["groups"].items()
        }
        redis = self.groups(variables)["redis"]
        given = variables.get("celery_app_lease_host")
        lease_host = str(self._templar.template(given)) if given else "".join(redis[:1])
        spared = missing(facts, self.groups(variables), lease_host)
        hints = {host: self._hint(variables, host) for host in hosts}
        if len(redis) > 1 and not hints.get(lease_host):
            hints[lease_host] = "name another one in celery_app_lease_host (docs/redis.md)"
        problems = check_facts(facts, hints, spared, args.get("asked"), _sources(variables))
        for check in (check_first_primary, check_leaving, check_logins, check_ports):
            problems += check(facts, redis)
        if not _makes_certificates(variables):
            problems += check_client_keys(facts, as_mapping(args.get("asked")))
        problems = report.grouped(problems)
        for problem in problems:
            if problem.severity is Severity.WARNING:
                self._display.warning(report.line(problem, groups, hosts))
        errors = [problem for problem in problems if problem.severity is Severity.ERROR]
        if errors:
            title = f"These hosts are refused, {count(len(errors), 'error')}. Nothing was changed on any host."
            raise AnsibleActionFail(report.block(title, errors, groups, hosts))
        message = f"The hosts are in order: {count(len(hosts) - len(spared), 'host')}"
        remedies = {host: left_out_remedy(as_mapping(facts[host]), hints[host]) for host in spared}
        return {"missing": spared, "remedies": remedies, "msg": message}

    def _hint(self, variables: dict[str, Any], host: str) -> str:
        try:
            return str(variables["hostvars"][host].get("preflight_hosts_hint") or "")
        except AnsibleError:
            return ""  # `preflight_inventory` has already refused it


def _makes_certificates(variables: dict[str, Any]) -> bool:
    """Return whether the run includes the role pki. rollback_app.yml, which goes back, does not."""
    given = variables["ansible_run_tags"], variables["ansible_skip_tags"]
    goes_back = variables.get("__celery_release_goes_back", False)
    return not goes_back and any(part.name == "pki" for part in parts_in(*given))


def _sources(variables: dict[str, Any]) -> list[str]:
    """Return the sources of the inventory, unless they are those of the configuration."""
    sources = [str(source) for source in variables["ansible_inventory_sources"]]
    configured = constants.config.get_config_value("DEFAULT_HOST_LIST")
    return [] if sources == list(configured) else sources
