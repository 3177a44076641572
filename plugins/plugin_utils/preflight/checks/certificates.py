"""Reports what `pki` finds wrong with certificates and authorities as problems of the inventory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from ...desired.groups import FLEET
from ...desired.option import as_number
from ...pki import faults as pki_faults
from ...pki import rollover, wanted, x509
from ...pki.faults import Fault
from ...pki.wanted import PkiVariables
from ..model.inventory import UNKNOWN, Model, Problem, Severity, as_list, as_strings
from .groups import is_wrong_address
from .redis_service import is_used

# Days. A date after the year 9999 would end the run when the certificate is made.
_LONGEST: Final = 36500
_SOURCES: Final = (wanted.OWN, wanted.INTERMEDIATE, wanted.EXTERNAL)
# The variables that each source needs.
_NEEDED: Final = {
    wanted.OWN: ("pki_ca_passphrase",),
    wanted.INTERMEDIATE: ("pki_ca_certificate", "pki_ca_key", "pki_ca_bundle"),
    wanted.EXTERNAL: ("pki_certificate", "pki_key", "pki_ca_bundle"),
}
# Groups of hosts that show their certificate to others.
_SERVERS: Final = ("redis", "celery_producers", "flower")
# A URL, or a name with its port; an IPv6 address has more colons.
_WITH_PORT = re.compile(r".*/.*|[^:]+:[0-9]*")
_WHY: Final = {
    "pki_ca_passphrase": "it encrypts the key of the fleet's own authority",
    "pki_ca_certificate": "with pki_source: intermediate this authority signs the hosts' certificates",
    "pki_ca_key": "with pki_source: intermediate this key signs the hosts' certificates",
    "pki_ca_bundle": "hosts only trust the authorities in it",
    "pki_certificate": "with pki_source: external each host has its own",
    "pki_key": "with pki_source: external each host has its own",
}


def check_certificates(model: Model) -> Iterator[Problem]:
    """Check each host's settings, then compare the hosts with each other and with their existing certificates."""
    hosts = model.members(FLEET)
    given: dict[str, PkiVariables] = {}
    for host in hosts:
        missing = list(_missing(model, host))
        yield from missing
        yield from _numbers(model, host)
        yield from _texts(model, host)
        found = _given(model, host)
        if found is None:
            continue
        faults = list(pki_faults.faults(found))
        yield from (
            _problem(fault, host) for fault in faults if fault.variable not in _names(missing)
        )
        if not faults and not missing:
            given[host] = found
    yield from _shared(model, hosts)
    yield from _called(model)
    if given.keys() == set(hosts):
        # A conflict is only worth reporting if each host's own settings are right.
        apart = rollover.disagreements(given, [h for h in model.members("redis") if h in given])
        for name, fault in apart or rollover.rollover_faults(given):
            yield _problem(fault, name)
        for host, found in given.items():
            days = as_number(model.value(host, "pki_ca_warn_days")) or 0
            for fault in rollover.ending(found, host, days):
                yield _problem(fault, host, Severity.WARNING)
    yield from _shared_keys(model, given)


def _shared_keys(model: Model, given: Mapping[str, PkiVariables]) -> Iterator[Problem]:
    """Warn about hosts with servers whose key the application's processes get."""
    for host in model.members(*_SERVERS):
        of = given.get(host)
        if of and of.source == wanted.EXTERNAL and of.clients and not of.client_certificate:
            yield Problem(
                "pki_client_certificate",
                "is not set, so the application's processes have the key with which this host's servers prove who "
                "they are",
                "give clients a certificate of their own, and its key as pki_client_key",
                hosts=(host,),
                severity=Severity.WARNING,
            )


def pki_settings(model: Model) -> dict[str, PkiVariables]:
    """Return what each host's variables say about its certificate, without hosts with a variable of a wrong type."""
    found = ((host, _given(model, host)) for host in model.members(FLEET))
    return {host: given for host, given in found if given is not None}


def _problem(fault: Fault, host: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(
        fault.variable,
        fault.message,
        fault.remedy,
        hosts=(host,) if host else (),
        severity=severity,
    )


def _names(problems: Iterable[Problem]) -> set[str]:
    return {problem.variable for problem in problems}


def _missing(model: Model, host: str) -> Iterator[Problem]:
    source = model.value(host, "pki_source")
    for name in _NEEDED.get(source, ()) if isinstance(source, str) else ():
        value = model.value(host, name)
        failed = any(item.path[0] == name and item.host == host for item in model.failures)
        if not failed and (value is UNKNOWN or (value == "" and name != "pki_ca_passphrase")):
            yield Problem(
                name, f"is not set; {_WHY[name]}", "set it in the inventory", hosts=(host,)
            )


def _given(model: Model, host: str) -> PkiVariables | None:
    """Return the host's variables, or None if one has a wrong type, which another check reports."""
    source, mode = model.value(host, "pki_source"), model.value(host, "pki_mode")
    directory = model.value(host, "pki_directory")
    generation = _generation(model.value(host, "pki_ca_generation"))
    trusted = [
        _generation(item) for item in as_list(model.value(host, "pki_ca_trusted_generations"))
    ]
    days = as_number(model.value(host, "pki_renew_before_days"))
    if (
        source not in _SOURCES
        or not isinstance(directory, str)
        or days is None
        or generation is None
        or None in trusted
    ):
        return None
    texts = {}
    for name in (
        "ca_bundle",
        "ca_certificate",
        "ca_key",
        "ca_passphrase",
        "certificate",
        "key",
        "chain",
        "client_certificate",
        "client_key",
    ):
        value = model.value(host, f"pki_{name}")
        if value is UNKNOWN:
            value = ""
        if not isinstance(value, str):
            return None
        texts[name] = value
    if any(
        item.path[0] in {f"pki_{name}" for name in texts} and item.host == host
        for item in model.failures
    ):
        return None
    return PkiVariables(
        source=cast(Any, source),
        mode=str(mode),
        directory=directory,
        names=as_strings(model.value(host, "pki_subject_alt_names")),
        ca_generation=generation,
        ca_trusted_generations=cast(list[int], trusted),
        renew_before_days=days,
        **texts,
    )


def _generation(value: object) -> int | None:
    """Return the number of an authority, which roles also accept as text; None if it is none."""
    number = as_number(value)
    return int(number) if number is not None and number >= 1 and number == int(number) else None


def _numbers(model: Model, host: str) -> Iterator[Problem]:
    for name in ("pki_ca_generation", "pki_ca_trusted_generations"):
        value = model.value(host, name)
        for number in value if isinstance(value, list) else [value]:
            # Another check reports a wrong type.
            count = as_number(number)
            if count is not None and count < 1:
                yield Problem(
                    name,
                    "has a number below 1",
                    "count the authorities from 1",
                    value=str(number),
                    hosts=(host,),
                )
    if model.value(host, "pki_source") == wanted.EXTERNAL:
        return
    for name in ("pki_validity_days", "pki_ca_validity_days"):
        days = as_number(model.value(host, name))
        if days is not None and days < 1:
            yield Problem(
                name,
                "is less than a day",
                "write the number of days that it is valid",
                value=f"{days:g}",
                hosts=(host,),
            )
            return
        if days is not None and days > _LONGEST:
            yield Problem(
                name,
                "is more than a hundred years",
                f"write {_LONGEST} or less",
                value=f"{days:g}",
                hosts=(host,),
            )
    yield from _older_than(model, host)
    lasts = as_number(model.value(host, "pki_validity_days"))
    before = as_number(model.value(host, "pki_renew_before_days"))
    if lasts is not None and before is not None and before >= lasts:
        yield Problem(
            "pki_renew_before_days",
            f"is not less than pki_validity_days, {lasts:g}: each run would renew all certificates",
            "leave some days between them",
            value=f"{before:g}",
            hosts=(host,),
        )


def _older_than(model: Model, host: str) -> Iterator[Problem]:
    name = "pki_renew_older_than"
    text = str(model.value(host, name) or "")
    if not text:
        return
    try:
        when = wanted.moment(text)
    except ValueError:
        message, remedy = "is not a time", "write it as 2026-11-25T15:00, in UTC"
    else:
        if when <= datetime.now(UTC):
            return
        message = "is in the future: each run until then would make all keys and certificates again"
        remedy = "write the present time, or an earlier one, in UTC"
    yield Problem(name, message, remedy, value=text, hosts=(host,))


def _texts(model: Model, host: str) -> Iterator[Problem]:
    """Check the names in certificates that the fleet makes; an impossible one would end the run half-way."""
    source = model.value(host, "pki_source")
    if model.value(host, "pki_subject_alt_names") == [] and any(
        host in model.members(group) for group in _SERVERS
    ):
        yield Problem(
            "pki_subject_alt_names",
            "is empty, so no client could connect to this host's services: clients check the name",
            "list the names by which clients reach it (the default is celery_app_host_names), or remove both variables",
            hosts=(host,),
        )
    if source == wanted.EXTERNAL:
        return
    for name in as_strings(model.value(host, "pki_subject_alt_names")):
        # By default it has the host's address, of which another check says what is wrong.
        if not x509.name_fits(name) and not is_wrong_address(model, host, name):
            yield Problem(
                "pki_subject_alt_names",
                "has an entry that is neither a name nor an address that a certificate could be for",
                "write names of letters, digits, dots and dashes; write other characters as DNS does (xn--…)",
                value=model.show(("pki_subject_alt_names",), name),
                hosts=(host,),
            )
    called = model.value(host, "pki_ca_name")
    if source == wanted.OWN and isinstance(called, str) and not x509.title_fits(called):
        yield Problem(
            "pki_ca_name",
            f"can't be an authority's name, which has 1 to {x509.LONGEST_TITLE} printable characters",
            "shorten it, or leave it out",
            value=model.show(("pki_ca_name",), called),
            hosts=(host,),
        )


def _shared(model: Model, hosts: tuple[str, ...]) -> Iterator[Problem]:
    """Refuse hosts with different modes: both ends of a connection have to agree."""
    values = model.distinct("pki_mode", hosts)
    if len(values) > 1:
        yield Problem(
            "pki_mode",
            f"differs between hosts: {', '.join(str(value) for value, _ in values)}",
            "set it once, for all hosts of the fleet",
        )


def _called(model: Model) -> Iterator[Problem]:
    """Refuse addresses of Redis that its certificate is not for."""
    if is_used(model):
        return  # then these are the addresses of another Redis
    given = {
        x509.alternative_name(name)
        for host in model.members("redis")
        for name in as_strings(model.value(host, "pki_subject_alt_names"))
    }
    variables = ["celery_app_broker_host", "celery_app_results_host"]
    if any(value is True for value, _ in model.distinct("celery_app_cache")):
        variables.append("celery_app_cache_host")
    for variable in variables:
        for value, on in model.distinct(variable) if given else ():
            if isinstance(value, str) and not x509.is_named(value, given):
                whole = _WITH_PORT.fullmatch(value)
                yield Problem(
                    variable,
                    "is more than a host's name or address"
                    if whole
                    else "is not in pki_subject_alt_names of any host in the group redis, so clients would refuse its "
                    "certificate",
                    f"write the name or address only; the port is {variable.replace('_host', '_port')}"
                    if whole
                    else "write a name that Redis's certificate is for, or add this one to pki_subject_alt_names of "
                    "its host; for a Redis outside of the fleet, set celery_app_broker_url instead",
                    value=model.show((variable,), value),
                    hosts=on,
                )
