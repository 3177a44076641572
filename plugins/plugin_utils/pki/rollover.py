"""Check that a change of authorities does not make hosts refuse each other.

Not all hosts can change at the same moment, and clients read the authorities whenever they connect. So the changes in
the inventory are compared with each host's record, which says what the host had after the last complete run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .chain import chain_to, is_trusted
from .faults import LOST, PUT_BACK, Fault
from .records import CertificateRecord, read_record
from .wanted import (
    EXTERNAL,
    INTERMEDIATE,
    OWN,
    PkiVariables,
    authority_certificate,
    bundle,
    host_state,
    joined,
    signer,
)
from .x509 import (
    Certificate,
    CertificateError,
    certificates,
    is_authority,
    issuer,
    read_text,
    title,
)

_LOST = Fault(
    "pki_directory",
    "no longer has any of the fleet's own authorities, but this host has a certificate of one",
    f"restore ca.crt and ca.key from your backup; if they are lost: {LOST}",
)


def _is_lost(given: PkiVariables) -> bool:
    return given.source == OWN and not any(Path(given.directory).glob("ca*.crt"))


def stranger(shown: str, directory: str, more: str = "") -> Fault | None:
    """Check that the control node knows the authority of a host's certificate.

    A checkout that lacks `pki_directory`, or has an old copy of it, would make another authority for the fleet. Neither
    hosts outside of `--limit` nor other checkouts would know it.

    Args:
        shown: The certificate on the host, with its chain.
        directory: The directory of the fleet's own authorities (`pki_directory`). Each certificate in it counts,
            regardless of its file's name.
        more: Other authorities that hosts trust (`pki_ca_bundle`).

    Returns:
        What is wrong. None if the authority is known, or if the host has no readable certificate.
    """
    chain = _readable(shown)
    if not chain:
        return None
    known = _readable(more)
    for path in sorted(Path(directory).glob("*.crt")):
        known += _readable(path)
    if chain_to(chain, known):
        return None
    which = "lacks" if known else "has no authority, so it lacks"
    return Fault(
        "pki_directory",
        f"{which} the authority of this host's certificate, {issuer(chain[-1])}: another checkout made it",
        f"copy all of {directory} from the checkout that last deployed the fleet; if it is lost: {LOST}",
    )


def _readable(given: str | Path) -> list[Certificate]:
    """Return the certificates of a text or a file; none if it can't be read, which other checks report."""
    try:
        return certificates(read_text(given) if isinstance(given, Path) else given)
    except CertificateError:
        return []


def rollover_faults(given: Mapping[str, PkiVariables]) -> list[tuple[str, Fault]]:
    """Find hosts that would show what others don't trust yet, or would stop trusting what others still show.

    Args:
        given: What the inventory says about every host of the fleet, including those that a run leaves out.

    Returns:
        Pairs of a host and what is wrong.
    """
    try:
        records = {
            host: record
            for host, of in given.items()
            if (record := read_record(of.directory, host)) is not None
        }
        found: list[tuple[str, Fault]] = []
        lost = [host for host, of in given.items() if host in records and _is_lost(of)]
        if lost:
            return [(host, _LOST) for host in lost]
        seen: dict[tuple[str, str], bool] = {}
        for host, of in given.items():
            found += [(host, fault) for fault in _of_change(host, of, records, seen)]
    except CertificateError as error:
        return [("", Fault("pki_directory", f"has a file which {error}", PUT_BACK))]
    return found


def disagreements(
    given: Mapping[str, PkiVariables], servers: Iterable[str]
) -> list[tuple[str, Fault]]:
    """Find hosts that could not connect after the run, because they don't trust what the other side shows.

    Args:
        given: The same as for `rollover_faults`.
        servers: Hosts of Redis, to which all others connect.
    """
    strange: dict[tuple[str, str], list[str]] = {}
    for server in servers:
        for host, of in given.items():
            both = [(host, server, False), *([(server, host, True)] if of.clients else [])]
            for trusting, shows, client in both if host != server else []:
                if not _will_trust(given[trusting], given[shows], shows, client):
                    own = {given[trusting].source, given[shows].source} == {OWN}
                    variable = "pki_ca_trusted_generations" if own else "pki_ca_bundle"
                    strange.setdefault((trusting, variable), []).append(shows)
    return [
        (
            host,
            Fault(
                variable,
                f"lacks the authority of what {_listed(shows)} {'shows' if len(shows) == 1 else 'show'}, "
                "so nothing could connect",
                "use one authority for all hosts, or make all hosts trust each of them",
            ),
        )
        for (host, variable), shows in strange.items()
    ]


def _will_trust(given: PkiVariables, other: PkiVariables, host: str, client: bool) -> bool:
    """Return whether a host will trust what another serves or, with `client`, what its clients show.

    Their own authority may not exist yet.
    """
    if (given.source, other.source, given.directory) == (OWN, OWN, other.directory):
        return int(other.ca_generation) in given.generations
    try:
        shown = host_state(other, host)["client_chain" if client else "chain"] or signer(other)
        return is_trusted(shown, bundle(given) or _known(given))
    except CertificateError:
        # Other checks report this.
        return True


def _of_change(
    host: str,
    given: PkiVariables,
    records: Mapping[str, CertificateRecord],
    seen: dict[tuple[str, str], bool],
) -> Iterator[Fault]:
    def trusts(chain: str, trusted: str) -> bool:
        if (chain, trusted) not in seen:
            seen[chain, trusted] = is_trusted(chain, trusted)
        return seen[chain, trusted]

    try:
        state = host_state(given, host)
    except CertificateError:
        # Other checks report this.
        return
    shown = [state["chain"] or signer(given)]
    if given.clients:
        shown.append(state["client_chain"] or signer(given))
    unaware = [
        name
        for name, record in records.items()
        if not all(trusts(chain, record.bundle) for chain in shown if chain)
    ]
    if records and not all(shown):
        unaware = list(records)
    if unaware:
        own = given.source == OWN
        yield Fault(
            "pki_ca_generation" if own else "pki_ca_bundle",
            f"brings certificates that {_listed(unaware)} {'does' if len(unaware) == 1 else 'do'} not trust yet",
            (
                "first make all hosts trust it: keep the previous pki_ca_generation, set pki_ca_trusted_generations: "
                f"[{given.ca_generation}], and do a whole run of site.yml"
                if own
                else "first make all hosts trust both authorities: keep the previous certificates, put both "
                "authorities into pki_ca_bundle, and do a whole run of site.yml"
            ),
        )
    trusted = state["bundle"]
    if trusted is None:
        trusted = _known(given)
    needed = [
        name
        for name, record in records.items()
        if not all(trusts(chain, trusted) for chain in record.shown)
    ]
    if needed:
        own = given.source == OWN
        yield Fault(
            "pki_ca_trusted_generations" if own else "pki_ca_bundle",
            f"leaves out the authority of the certificates that {_listed(needed)} still "
            f"{'shows' if len(needed) == 1 else 'show'}",
            "leave it in until a whole run of site.yml has given these hosts new ones"
            + (
                f": pki_ca_trusted_generations: {_before(given, records)}"
                if own and _before(given, records)
                else ""
            ),
        )


def _known(given: PkiVariables) -> str:
    """Return those of the trusted authorities that exist already."""
    own = [
        read_text(authority_certificate(given.directory, number)) for number in given.generations
    ]
    return joined(*own, given.ca_bundle)


def _before(given: PkiVariables, records: Mapping[str, CertificateRecord]) -> list[int]:
    """Return the numbers of the own authorities, other than the current one, that signed certificates in use."""
    chains = {chain for record in records.values() for chain in record.shown}
    found = []
    for path in sorted(Path(given.directory).glob("ca*.crt")):
        suffix = path.stem.removeprefix("ca").removeprefix("-")
        number = int(suffix) if suffix.isdigit() else 1
        if number != int(given.ca_generation) and any(
            is_trusted(chain, read_text(path)) for chain in chains
        ):
            found.append(number)
    return sorted(found)


def _listed(hosts: Sequence[str], most: int = 3) -> str:
    if len(hosts) > most:
        return f"{', '.join(hosts[:most])} and {len(hosts) - most} more hosts"
    return ", ".join(hosts)


def ending(
    given: PkiVariables, host: str, days: float, now: datetime | None = None
) -> Iterator[Fault]:
    """Find authorities in use, and certificates from outside, that expire within so many days."""
    now = now or datetime.now(UTC)

    def soon(item: Certificate) -> str:
        left = item.not_valid_after_utc - now
        if not timedelta(0) < left <= timedelta(days=days):
            return ""
        return f"expires on {item.not_valid_after_utc:%Y-%m-%d}, in {left.days} days"

    try:
        state = host_state(given, host)
        trusted = certificates(state["bundle"] or "")
        chain = certificates(state["chain"] or signer(given))
        way = chain_to(chain, trusted) or chain
        client = certificates(state["client_chain"]) if state["client_chain"] else []
        more = chain_to(client, trusted) or client
    except CertificateError:
        return
    for item in dict.fromkeys((*way, *more)):
        when = soon(item)
        if not when:
            continue
        if is_authority(item):
            variable = "pki_ca_generation" if given.source == OWN else "pki_ca_bundle"
            if given.source == INTERMEDIATE and item in certificates(given.ca_certificate):
                variable = "pki_ca_certificate"
            remedy = "replace it in time, in the three steps that docs/certificates.md describes"
            yield Fault(variable, f"uses the authority {title(item)}, which {when}", remedy)
        elif given.source == EXTERNAL and item in (chain[0], *client[:1]):
            left = item.not_valid_after_utc - now
            if left <= timedelta(days=given.renew_before_days):
                variable = "pki_certificate" if item == chain[0] else "pki_client_certificate"
                yield Fault(variable, when, "have it renewed, and run site.yml")
