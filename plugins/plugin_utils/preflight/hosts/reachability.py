"""What the hosts themselves show: reachable, and within the bounds of what is supported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import rollover
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.control import (
    version,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.source import (
    ANOTHER_PYTHON,
    PYTHON,
    hidden,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.capacity import (
    check_capacity,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.owners import (
    check_owners,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    MEMBER_GROUPS,
    Problem,
    Severity,
    as_mapping,
    as_number,
    as_strings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.report import (
    grouped,
)

SUPPORTED: Final = {"debian": ("12", "13")}
SYSTEMD_FROM: Final = 252
PYTHON_FROM: Final = (3, 11)
# Whose ssl.create_default_context() asks for all of RFC 5280.
STRICT_FROM: Final = (3, 13)
FLAVORS: Final = ("redis", "valkey")
# Of those that are supported.
WITHOUT_VALKEY: Final = ("12",)
# Scores of unacknowledged tasks, certificates and schedules are compared between the hosts' clocks.
CLOCK_WITHIN: Final = 5.0
# Beyond it a host would take what others hold for abandoned, or refuse certificates that have just been made.
CLOCK_AT_MOST: Final = 60.0


def missing(facts: Mapping[str, object], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Hosts that can't be reached and that the fleet can do without for a while, each with the reason.

    A host of workers alone is one, as long as another host of workers is there; without its Redis or its beat a
    fleet is none.

    Args:
        facts: As `check_facts` takes them.
        groups: The inventory's.
    """
    needed = {
        host for name in MEMBER_GROUPS if name != "celery_workers" for host in groups.get(name, ())
    }
    workers = [host for host in facts if host in groups.get("celery_workers", ())]
    gone = {
        host: f"can't be reached: {_reason(as_mapping(facts[host]))}"
        for host in workers
        if host not in needed and as_mapping(facts[host]).get("reachable") is not True
    }
    return gone if len(gone) < len(workers) else {}


def _reason(facts: Mapping[str, object]) -> object:
    return facts.get("reason") or "nothing was collected of it"


def check_facts(
    facts: Mapping[str, object],
    hints: Mapping[str, str],
    spared: Mapping[str, str] | None = None,
    asked: Mapping[str, Mapping[str, object]] | None = None,
) -> list[Problem]:
    """Problems of all hosts.

    Args:
        facts: `ansible_facts['fleet']` by host; whatever is not a mapping counts as missing.
        hints: `preflight_hosts_hint` by host: how hosts of this inventory come to be.
        spared: What `missing` has found: these are warnings.
        asked: What the inventory asks of each host (`capacity.demands`).
    """
    found: list[Problem] = []
    for host, value in facts.items():
        if host in (spared or {}):
            found.append(
                Problem(
                    "host",
                    f"{(spared or {})[host]}; it is left out",
                    hints.get(host) or "run the same command again once it is back",
                    hosts=(host,),
                    severity=Severity.WARNING,
                )
            )
        else:
            found += _host(host, as_mapping(value), hints.get(host, ""))
            found += check_capacity(host, as_mapping(value), (asked or {}).get(host, {}))
    return grouped(
        [
            *found,
            *_clocks(facts),
            *_certificates(facts, asked or {}),
            *_strangers(facts, asked or {}),
        ]
    )


def _strangers(
    facts: Mapping[str, object], asked: Mapping[str, Mapping[str, object]]
) -> Iterator[Problem]:
    """Certificates of an authority that the control side does not know: another checkout has it."""
    for host, value in facts.items():
        authorities = as_mapping((asked.get(host) or {}).get("authorities"))
        shown = as_mapping(value).get("certificate")
        if not authorities or not isinstance(shown, str):
            continue
        fault = rollover.stranger(shown, str(authorities["directory"]), str(authorities["bundle"]))
        if fault:
            yield Problem(fault.variable, fault.message, fault.remedy, hosts=(host,))


def _certificates(
    facts: Mapping[str, object], asked: Mapping[str, Mapping[str, object]]
) -> Iterator[Problem]:
    """Certificates that some host's Python would not take, whoever shows them."""
    strict = [
        host
        for host, value in facts.items()
        if version(str(as_mapping(value).get("python_version", ""))) >= STRICT_FROM
    ]
    for host, demands in asked.items() if strict else ():
        for words in as_strings(demands.get("certificate")):
            yield Problem(
                "pki_certificate",
                f"can't be used where {strict[0]} and others with Python 3.13 or later have to trust it: {words}",
                "have it made anew by way of what `openssl verify -x509_strict` takes: docs/certificates.md",
                hosts=(host,),
            )


def _clocks(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Clocks that differ from the control side's; where all hosts agree, it is that one which is wrong."""
    offsets = {
        host: as_number(as_mapping(value).get("clock_offset")) or 0.0
        for host, value in facts.items()
        if as_mapping(value).get("reachable") is True
    }
    wrong = {host: offset for host, offset in offsets.items() if abs(offset) > CLOCK_WITHIN}
    least, most = min(offsets.values(), default=0.0), max(offsets.values(), default=0.0)
    together = len(wrong) == len(offsets) > 1 and most - least <= CLOCK_WITHIN
    for host, offset in wrong.items():
        whose = (
            f"of the control side is {'behind' if offset > 0 else 'ahead of'} those of all hosts, which agree,"
            if together
            else f"is {'ahead of' if offset > 0 else 'behind'} the control side's"
        )
        yield Problem(
            "clock",
            f"{whose} by more than {CLOCK_WITHIN:g} s",
            "set the control side's clock, for example by chrony"
            if together
            else "synchronise the clocks of all hosts, for example with chrony",
            value="" if together else f"{offset:+.0f} s",
            hosts=(host,),
            severity=Severity.ERROR if abs(offset) > CLOCK_AT_MOST else Severity.WARNING,
        )


def _host(host: str, facts: Mapping[str, object], hint: str) -> Iterator[Problem]:
    if facts.get("reachable") is not True:
        yield Problem(
            "host",
            f"can't be used: {_reason(facts)}",
            "try `ansible <host> -m ansible.builtin.ping`; look at ansible_host, ansible_user and ansible_become"
            + (f". If the host is not there: {hint}" if hint else ""),
            hosts=(host,),
        )
        return
    if facts.get("uid") != 0:
        yield Problem(
            "ansible_become",
            "does not give root on the host",
            "allow the user of ansible_user to become root by sudo, and do not switch become off",
            value=f"uid {facts.get('uid')}",
            hosts=(host,),
        )
    distribution = str(facts.get("distribution", ""))
    if str(facts.get("distribution_version", "")) not in SUPPORTED.get(distribution, ()):
        supported = ", ".join(
            f"{name.capitalize()} {number}"
            for name, numbers in SUPPORTED.items()
            for number in numbers
        )
        yield Problem(
            "distribution",
            "is not supported",
            f"use a host with {supported}",
            value=str(facts.get("distribution_name") or distribution or "unknown"),
            hosts=(host,),
        )
    if facts.get("systemd_is_init") is not True:
        yield Problem(
            "systemd",
            "is not the host's process 1",
            "use a host that systemd has booted",
            hosts=(host,),
        )
    elif (as_number(facts.get("systemd_version")) or 0) < SYSTEMD_FROM:
        yield Problem(
            "systemd",
            f"is older than {SYSTEMD_FROM}",
            "use a host with a newer one",
            value=str(facts.get("systemd_version")),
            hosts=(host,),
        )
    if version(str(facts.get("python_version", ""))) < PYTHON_FROM:
        yield Problem(
            "python",
            "of the host is older than 3.11",
            "use a host with Python 3.11 or newer as python3",
            value=str(facts.get("python_version")),
            hosts=(host,),
        )
    yield from _interpreter(host, as_mapping(facts.get("interpreter")))
    for name in as_strings(facts.get("unresolved_names")):
        yield Problem(
            "celery_app_broker_host",
            "is a name that the host can't resolve",
            "give it an address in the DNS, or in /etc/hosts of every host of the fleet",
            value=name,
            hosts=(host,),
        )
    for unit in as_strings(facts.get("active_units")):
        yield Problem(
            "redis",
            "is taken on this host: Debian's own instance runs, and ours would end it",
            f"move what uses it elsewhere, then `systemctl disable --now {unit}`, or use another host",
            value=unit,
            hosts=(host,),
        )
    packages = as_strings(facts.get("packages"))
    # Each nginx of Debian's needs nginx-common.
    if (
        as_mapping(facts.get("claims")).get("nginx")
        and "nginx" in packages
        and "nginx-common" not in packages
    ):
        yield Problem(
            "nginx",
            "of this host is not Debian's: nginx.org's runs as the user nginx, who can open neither the sockets nor "
            "the password files of the fleet's sites",
            "remove it (`apt-get remove nginx`), and the next run installs Debian's; or use another host",
            hosts=(host,),
        )
    yield from _flavor(host, facts)
    yield from check_owners(host, facts)


def _interpreter(host: str, found: Mapping[str, object]) -> Iterator[Problem]:
    """The Python of releases, where it is looked for: it is there, new enough, and seen by the units."""
    path, text = str(found.get("path", "")), str(found.get("version", ""))
    if not path:
        return
    places = [PurePosixPath(place) for place in as_strings(found.get("places"))]
    unseen = next((f"leads {why}" for place in places if (why := hidden(place))), "")
    if found.get("exists") is not True:
        message = "does not exist on the host"
        remedy = (
            f"install it there (a package named {PurePosixPath(path).name} in celery_runtime_packages is installed "
            f"by the run), or {ANOTHER_PYTHON}"
        )
    elif unseen:
        message, remedy = unseen, ANOTHER_PYTHON
    elif text and version(text) < PYTHON_FROM:
        message, remedy = f"is Python {text}, older than 3.11", "name one of 3.11 or newer"
    else:
        return
    yield Problem(PYTHON, message, remedy, value=path, hosts=(host,))


def _flavor(host: str, facts: Mapping[str, object]) -> Iterator[Problem]:
    """Whether the host has the server that `redis_flavor` names, and its data is that server's."""
    flavor = str(facts.get("redis_flavor") or "")
    lacking = str(facts.get("distribution_version", "")) in WITHOUT_VALKEY
    # There, or to be had, from other sources of packages.
    there = "valkey-server" in as_strings(facts.get("packages")) or as_mapping(
        facts.get("versions")
    ).get("valkey-server")
    if flavor == "valkey" and lacking and not there:
        yield Problem(
            "redis_flavor",
            "is in no package of this host's distribution",
            "use a host with Debian 13, or redis_flavor: redis",
            value=flavor,
            hosts=(host,),
        )
    for path, owner in as_mapping(facts.get("redis_data")).items():
        if owner in FLAVORS and owner != flavor:
            yield Problem(
                "redis_flavor",
                f"is not whose data lies in {path}: that is {owner}'s, and not all of it can be read by the other",
                f"leave it at {owner}, or see “Redis or Valkey” in docs/operations.md",
                value=flavor,
                hosts=(host,),
            )
