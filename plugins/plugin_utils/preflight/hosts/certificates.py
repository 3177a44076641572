"""Checks whether clients of Redis have what `pki_mode: mutual` makes them show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..model.inventory import Problem, as_mapping


def check_client_keys(
    facts: Mapping[str, object], asked: Mapping[str, object]
) -> Iterator[Problem]:
    """Refuse hosts whose processes would be given a certificate that this run does not make: none would start.

    Args:
        facts: `ansible_facts['fleet']` by host.
        asked: What `demands` returns.
    """
    for host, value in facts.items():
        wanted = as_mapping(asked.get(host)).get("needs_client_key")
        if wanted and as_mapping(value).get("has_client_key") is False:
            yield Problem(
                "pki_mode",
                "is mutual, but the host has no certificate for its clients of Redis yet, and this run makes none",
                "run site.yml without tags first",
                hosts=(host,),
            )
