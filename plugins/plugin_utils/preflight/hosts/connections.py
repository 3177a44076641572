"""Checks whether new hosts reach the fleet's own Redis, before anything is built for a worker that could not start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..model.inventory import Problem, Severity, as_list, as_mapping, as_strings


def check_connections(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Warn about ports of Redis that don't answer a new host, for example because of a cloud provider's firewall.

    If the fleet's own table is already in place, it does not let a new host in before this run has changed it. The role
    firewall checks the connections then.

    Args:
        facts: `ansible_facts['fleet']` by host.
    """
    units = {
        unit
        for value in facts.values()
        for mark in as_list(as_mapping(value).get("marks"))
        for unit in as_strings(as_mapping(mark).get("units"))
    }
    for host, value in facts.items():
        app = as_mapping(as_mapping(value).get("claims")).get("app")
        if f"{app}-firewall.service" in units:
            continue
        for address, reason in as_mapping(as_mapping(value).get("silent")).items():
            yield Problem(
                "redis",
                f"does not answer the host: {reason}. Without it, no process of the application starts there",
                "let the host reach this port in every firewall between them, such as the cloud provider's; "
                "“Ports between the hosts” in docs/network.md says how to test it",
                value=address,
                hosts=(host,),
                severity=Severity.WARNING,
            )
