"""Checks whether hosts can be reached, and whether their systems, clocks and certificates are supported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from ...desired.groups import MEMBER_GROUPS
from ...desired.option import as_number
from ...pki import rollover
from ..checks.control import version
from ..checks.interpreter import ANOTHER_PYTHON, PYTHON
from ..checks.sandbox import hidden_by_sandbox
from ..model.inventory import Problem, Severity, as_mapping, as_strings
from ..model.report import grouped, with_hosts
from .capacity import check_capacity
from .connections import check_connections
from .owners import check_owners
from .redis_service import check_redis_service

# Others may work, but are not tested.
TESTED: Final = {"debian": ("12", "13")}
SYSTEMD_FROM: Final = 252
PYTHON_FROM: Final = (3, 11)
# The first Python with an ssl.create_default_context() that enforces all of RFC 5280.
STRICT_FROM: Final = (3, 13)
FLAVORS: Final = ("redis", "valkey")
# This release has no package of Valkey. For others, a host's package lists tell, if it has any.
WITHOUT_VALKEY: Final = ("debian", "12")
# Hosts compare unacknowledged tasks, certificates and schedules with their own clocks.
CLOCK_WITHIN: Final = 5.0
# Beyond this, a host may treat tasks that others hold as abandoned, or refuse new certificates.
CLOCK_AT_MOST: Final = 60.0
# The variable that is named for a host's name which others can't resolve.
UNRESOLVED: Final = "celery_app_broker_host"
# Groups of which a run may leave out some hosts.
DISPENSABLE: Final = ("redis", "celery_workers", "celery_beat")
PING: Final = "<host> -m ansible.builtin.ping"


def missing(
    facts: Mapping[str, object], groups: Mapping[str, Sequence[str]], lease_host: str = ""
) -> dict[str, str]:
    """Return the unreachable hosts that a run may leave out, each with the reason.

    A run may leave out hosts of workers or of beat if another one can be reached, and a minority of the hosts of Redis,
    unless one of them has the lease of the run.

    Args:
        facts: The same as for `check_facts`.
        groups: The fleet's groups.
        lease_host: The host that has the lease.
    """
    gone = [host for host, found in facts.items() if as_mapping(found).get("reachable") is not True]
    spared: set[str] = set()
    needed = {lease_host}
    for name in MEMBER_GROUPS:
        members = groups.get(name, ())
        lost = [host for host in gone if host in members]
        spare = len([host for host in facts if host in members]) - 1
        if name == "redis":
            spare = min(spare, (len(members) - 1) // 2)  # Sentinels need a majority of their hosts
        can_spare = name in DISPENSABLE and len(lost) <= spare
        (spared if can_spare else needed).update(lost)
    return {
        host: f"can't be reached: {_reason(as_mapping(facts[host]))}"
        for host in gone
        if host in spared - needed
    }


def _reason(facts: Mapping[str, object]) -> object:
    return facts.get("reason") or "no facts were collected"


def key_remedy(facts: Mapping[str, object]) -> str:
    """Return what to do if SSH refuses the host's key; empty if the host can't be reached for another reason."""
    reason = str(_reason(facts))
    if changed := re.search(r"Host key for (\S+) has changed", reason):
        return (
            "find out why the key has changed. If the host was reinstalled, remove its old key "
            f"(`ssh-keygen -R {shlex.quote(changed[1])}`) and log in once with ssh to accept the new one; otherwise "
            "another machine may answer at its address"
        )
    if "Host key verification failed" in reason:
        return "its key is not in known_hosts: compare it with the host's own, and log in once with ssh to accept it"
    return ""


def left_out_remedy(facts: Mapping[str, object], hint: str = "") -> str:
    """Return what to do about a host that a run leaves out.

    Args:
        facts: Facts of the host.
        hint: Its `preflight_hosts_hint`.
    """
    return key_remedy(facts) or f"run the same command again once it is back{_if_missing(hint)}"


def _if_missing(hint: str) -> str:
    return f". If the host is not there: {hint.removesuffix('.')}" if hint else ""


def check_facts(
    facts: Mapping[str, object],
    hints: Mapping[str, str],
    spared: Mapping[str, str] | None = None,
    asked: Mapping[str, Mapping[str, object]] | None = None,
    sources: Sequence[str] = (),
) -> list[Problem]:
    """Return the problems of all hosts.

    Args:
        facts: `ansible_facts['fleet']` by host; any value but a mapping counts as missing.
        hints: `preflight_hosts_hint` by host: how to create the hosts of this inventory.
        spared: The hosts of `missing`, for which there is only a warning.
        asked: The inventory's requirements for each host (`capacity.demands`).
        sources: The inventory's sources, as `-i` takes them; empty if they are those of the configuration.
    """
    ping = " ".join(["ansible", *(f"-i {shlex.quote(source)}" for source in sources), PING])
    found: list[Problem] = []
    spared, asked = spared or {}, asked or {}
    for host, value in facts.items():
        known, demands, hint = as_mapping(value), asked.get(host, {}), hints.get(host, "")
        if host in spared:
            message, remedy = f"{spared[host]}; it is left out", left_out_remedy(known, hint)
            found.append(Problem("host", message, remedy, hosts=(host,), severity=Severity.WARNING))
        else:
            problems = (
                *_host(known, hint, ping),
                *check_redis_service(known),
                *_distribution(known, demands),
                *check_capacity(known, demands),
            )
            found += [
                problem
                for problem in with_hosts((host,), problems)
                # Some DNS forget the name of a host that is down.
                if not (problem.variable == UNRESOLVED and problem.value in spared)
            ]
    return grouped(
        [
            *found,
            *_clocks(facts),
            *_certificates(facts, asked),
            *_strangers(facts, asked),
            *check_connections(facts),
        ]
    )


def _strangers(
    facts: Mapping[str, object], asked: Mapping[str, Mapping[str, object]]
) -> Iterator[Problem]:
    """Yield certificates of an authority that the control side does not have, because another checkout made it."""
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
    """Yield certificates that the Python of some host refuses."""
    strict = [
        host
        for host, value in facts.items()
        if version(str(as_mapping(value).get("python_version", ""))) >= STRICT_FROM
    ]
    for host, demands in asked.items() if strict else ():
        for words in as_strings(demands.get("certificate")):
            yield Problem(
                "pki_certificate",
                f"is refused by Python 3.13 and later, which {strict[0]} has: {words}",
                "have a new one made that passes `openssl verify -x509_strict`: docs/certificates.md",
                hosts=(host,),
            )


def _clocks(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Yield clocks that differ from the control side's. If all hosts agree, the control side's clock is wrong."""
    offsets = {
        host: as_number(as_mapping(value).get("clock_offset")) or 0.0
        for host, value in facts.items()
        if as_mapping(value).get("reachable") is True
    }
    wrong = {host: offset for host, offset in offsets.items() if abs(offset) > CLOCK_WITHIN}
    least, most = min(offsets.values(), default=0.0), max(offsets.values(), default=0.0)
    together = len(wrong) == len(offsets) > 1 and most - least <= CLOCK_WITHIN
    for host, offset in wrong.items():
        difference = (
            f"of the control side is {'behind' if offset > 0 else 'ahead of'} those of all hosts, which agree,"
            if together
            else f"is {'ahead of' if offset > 0 else 'behind'} the control side's"
        )
        yield Problem(
            "clock",
            f"{difference} by more than {CLOCK_WITHIN:g} s",
            "set the control side's clock, for example with chrony"
            if together
            else "synchronise the clocks of all hosts, for example with chrony",
            value="" if together else f"{offset:+.0f} s",
            hosts=(host,),
            severity=Severity.ERROR if abs(offset) > CLOCK_AT_MOST else Severity.WARNING,
        )


def _host(facts: Mapping[str, object], hint: str, ping: str) -> Iterator[Problem]:
    if facts.get("reachable") is not True:
        yield Problem(
            "host",
            f"can't be used: {_reason(facts)}",
            key_remedy(facts)
            or f"try `{ping}`; look at ansible_host, ansible_user and ansible_become{_if_missing(hint)}",
        )
        return
    if facts.get("uid") != 0:
        yield Problem(
            "ansible_become",
            "does not give root on the host",
            "let ansible_user become root (“Becoming root” in docs/environments.md), and leave ansible_become on",
            value=f"uid {facts.get('uid')}",
        )
    if facts.get("systemd_is_init") is not True:
        yield Problem(
            "systemd",
            "is not process 1 of the host",
            "use a host that was booted with systemd",
        )
    elif (as_number(facts.get("systemd_version")) or 0) < SYSTEMD_FROM:
        yield Problem(
            "systemd",
            f"is older than {SYSTEMD_FROM}",
            "use a host with a newer version",
            value=str(facts.get("systemd_version")),
        )
    if version(str(facts.get("python_version", ""))) < PYTHON_FROM:
        yield Problem(
            "python",
            "of the host is older than 3.11",
            "use a host on which python3 is Python 3.11 or newer",
            value=str(facts.get("python_version")),
        )
    yield from _interpreter(as_mapping(facts.get("interpreter")))
    for name in as_strings(facts.get("unresolved_names")):
        yield Problem(
            UNRESOLVED,
            "is a name that the host can't resolve",
            "add it to the DNS, or to /etc/hosts on every host of the fleet",
            value=name,
        )
    for unit in as_strings(facts.get("active_units")):
        yield Problem(
            "redis",
            "already runs on this host as Debian's own instance. It has the same system user as the fleet's Redis, so "
            "only the sandbox of its unit keeps its clients from the fleet's data",
            f"move its data and users elsewhere and run `systemctl disable --now {unit}`, or use another host",
            value=unit,
        )
    packages = as_strings(facts.get("packages"))
    # Each of Debian's packages of nginx needs nginx-common.
    if (
        as_mapping(facts.get("claims")).get("nginx")
        and "nginx" in packages
        and "nginx-common" not in packages
    ):
        yield Problem(
            "nginx",
            "of this host is not Debian's: the package of nginx.org runs as the user nginx, which can't open the "
            "sockets and password files of the fleet's sites",
            "remove it (`apt-get remove nginx`), so that the next run installs Debian's; or use another host",
        )
    yield from _flavor(facts)
    yield from check_owners(facts)


def _distribution(facts: Mapping[str, object], asked: Mapping[str, object]) -> Iterator[Problem]:
    """Refuse a distribution without Debian's packages; warn about one that is not tested and not acknowledged."""
    if facts.get("reachable") is not True:
        return
    name, number = str(facts.get("distribution", "")), str(facts.get("distribution_version", ""))
    shown = str(facts.get("distribution_name") or name or "unknown")
    tested = ", ".join(f"{one.capitalize()} {' or '.join(those)}" for one, those in TESTED.items())
    if name != "debian" and "debian" not in as_strings(facts.get("distribution_like")):
        yield Problem(
            "distribution",
            "is not supported: it is neither Debian nor derived from it",
            f"use a host with {tested}",
            value=shown,
        )
        return
    release = f"{name}-{number}".rstrip("-")
    patterns = as_strings(asked.get("distributions"))
    if number not in TESTED.get(name, ()) and not any(
        fnmatchcase(release, one) for one in patterns
    ):
        yield Problem(
            "distribution",
            f"is not tested with Celery Fleet; {tested} is. What a host needs is checked by version, so it may work",
            f"try it outside of production first, then write preflight_allowed_distributions: [{release}]",
            value=shown,
            severity=Severity.WARNING,
        )


def _interpreter(found: Mapping[str, object]) -> Iterator[Problem]:
    """Refuse a Python for releases that is missing, too old, or hidden from the units."""
    path, text = str(found.get("path", "")), str(found.get("version", ""))
    if not path:
        return
    places = [PurePosixPath(place) for place in as_strings(found.get("places"))]
    unseen = next((f"leads {why}" for place in places if (why := hidden_by_sandbox(place))), "")
    if found.get("exists") is not True:
        others = ", ".join(as_strings(found.get("others"))) or "no other Python 3"
        message = f"does not exist on the host, which has {others}"
        name = PurePosixPath(path).name if "/" in path else f"python{path}"
        remedy = f"install it there (the run does so if {name} is in celery_runtime_packages), or {ANOTHER_PYTHON}"
    elif unseen:
        message, remedy = unseen, ANOTHER_PYTHON
    elif text and version(text) < PYTHON_FROM:
        message, remedy = f"is Python {text}, older than 3.11", "name Python 3.11 or newer"
    else:
        return
    yield Problem(PYTHON, message, remedy, value=path)


def _flavor(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Refuse a `redis_flavor` without a package for the host, or one that can't read the existing data."""
    flavor = str(facts.get("redis_flavor") or "")
    versions = as_mapping(facts.get("versions"))
    release = (facts.get("distribution"), facts.get("distribution_version"))
    lacking = release == WITHOUT_VALKEY or bool(versions.get("redis-server"))
    # Installed, or available from other package sources.
    there = "valkey-server" in as_strings(facts.get("packages")) or versions.get("valkey-server")
    if flavor == "valkey" and lacking and not there:
        yield Problem(
            "redis_flavor",
            "is in none of this host's package sources",
            "use a host that has the package valkey-server, such as one with Debian 13, or write redis_flavor: redis",
            value=flavor,
        )
    for path, owner in as_mapping(facts.get("redis_data")).items():
        if owner in FLAVORS and owner != flavor:
            yield Problem(
                "redis_flavor",
                f"can't read all of the data in {path}, which {owner} wrote",
                f"write redis_flavor: {owner}, or see “Redis or Valkey” in docs/redis.md",
                value=flavor,
            )
