"""Whether a change of authorities can be made without one side refusing the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.chain import (
    chain_to,
    is_trusted,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.faults import _PUT_BACK, Fault
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.records import (
    Record,
    read_record,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.wanted import (
    EXTERNAL,
    INTERMEDIATE,
    OWN,
    Given,
    authority_certificate,
    bundle,
    host_state,
    joined,
    signer,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.x509 import (
    Certificate,
    CertificateError,
    _read,
    certificates,
    is_authority,
    issuer,
    title,
)

_LOST = Fault(
    "pki_directory",
    "has none of the fleet's own authorities any more, and this host has a certificate of one",
    "put ca.crt and ca.key back from where you keep them; where they are lost: “Where an authority is lost” in "
    "docs/certificates.md",
)


def _is_lost(given: Given) -> bool:
    return given.source == OWN and not any(Path(given.directory).glob("ca*.crt"))


def stranger(shown: str, directory: str, more: str = "") -> Fault | None:
    """Whether a host's certificate is of an authority that the control side does not know.

    A checkout that lacks `pki_directory`, or has an old copy of it, would make the fleet an authority that neither the
    other hosts (under `--limit`) nor the other checkouts know.

    Args:
        shown: The host's certificate with its chain, as it lies there.
        directory: The own authorities' (`pki_directory`). Each certificate in it is known, whatever its file's name.
        more: Other authorities that hosts trust (`pki_ca_bundle`).

    Returns:
        What is wrong; nothing where the authority is known, or the host has no certificate that could be read.
    """
    chain = _readable(shown)
    if not chain:
        return None
    known = _readable(more)
    for path in sorted(Path(directory).glob("*.crt")):
        known += _readable(path)
    if chain_to(chain, known):
        return None
    which = "lacks the authority" if known else "has no authority, and not that"
    return Fault(
        "pki_directory",
        f"{which} of the certificate that this host has, {issuer(chain[-1])}: another checkout made it",
        f"copy all of {directory} from where the fleet was deployed last; where it is nowhere any more: "
        "“Where an authority is lost” in docs/certificates.md",
    )


def _readable(given: str | Path) -> list[Certificate]:
    """The certificates of a text or a file; none where there are none. What is wrong with it is said elsewhere."""
    try:
        return certificates(_read(given) if isinstance(given, Path) else given)
    except CertificateError:
        return []


def rollover_faults(given: Mapping[str, Given]) -> list[tuple[str, Fault]]:
    """Where a host would show what others don't trust yet, or trust no longer what others show still.

    Args:
        given: What the inventory says, of every host of the fleet, also of those that a run leaves out.

    Returns:
        Hosts with what is wrong; each reason once.
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
        return [("", Fault("pki_directory", f"has a file which {error}", _PUT_BACK))]
    return found


def disagreements(given: Mapping[str, Given], servers: Iterable[str]) -> list[tuple[str, Fault]]:
    """Hosts that could not connect once all have what they are to get: they don't trust what the other side shows.

    Args:
        given: As `rollover_faults` takes it.
        servers: Hosts of Redis, to which all others connect.
    """
    strange: dict[tuple[str, str], list[str]] = {}
    for server in servers:
        for host, of in given.items():
            both = [(host, server), *([(server, host)] if of.clients else [])]
            for trusting, shows in both if host != server else []:
                if not _will_trust(given[trusting], given[shows], shows):
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
                "use one authority for all hosts, or have each of them trusted by all",
            ),
        )
        for (host, variable), shows in strange.items()
    ]


def _will_trust(given: Given, other: Given, host: str) -> bool:
    """Whether a host trusts another one's certificate, also where authorities of the fleet's own are yet to be made."""
    if (given.source, other.source, given.directory) == (OWN, OWN, other.directory):
        return int(other.ca_generation) in given.generations
    try:
        shown = host_state(other, host)["chain"] or signer(other)
        return is_trusted(shown, bundle(given) or _known(given))
    except CertificateError:
        # Reported as what it is.
        return True


def _of_change(
    host: str, given: Given, records: Mapping[str, Record], seen: dict[tuple[str, str], bool]
) -> Iterator[Fault]:
    def trusts(chain: str, trusted: str) -> bool:
        if (chain, trusted) not in seen:
            seen[chain, trusted] = is_trusted(chain, trusted)
        return seen[chain, trusted]

    try:
        state = host_state(given, host)
    except CertificateError:
        # Reported as what it is.
        return
    shown = state["chain"] or signer(given)
    unaware = [
        name for name, record in records.items() if shown and not trusts(shown, record.bundle)
    ]
    if records and not shown:
        unaware = list(records)
    if unaware:
        own = given.source == OWN
        yield Fault(
            "pki_ca_generation" if own else "pki_ca_bundle",
            f"brings certificates that {_listed(unaware)} {'does' if len(unaware) == 1 else 'do'} not trust yet",
            (
                f"first have it trusted everywhere: pki_ca_trusted_generations: [{given.ca_generation}] with the "
                "pki_ca_generation of before, and a whole run of site.yml"
                if own
                else "first have hosts trust the new authority beside that of before: both in pki_ca_bundle, the "
                "certificates of before, and a whole run of site.yml"
            ),
        )
    trusted = state["bundle"]
    if trusted is None:
        trusted = _known(given)
    needed = [name for name, record in records.items() if not trusts(record.chain, trusted)]
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


def _known(given: Given) -> str:
    """What is there already of authorities of which one is yet to be made."""
    own = [_read(authority_certificate(given.directory, number)) for number in given.generations]
    return joined(*own, given.ca_bundle)


def _before(given: Given, records: Mapping[str, Record]) -> list[int]:
    """The own authorities, other than the one that signs, by which certificates in use were signed."""
    chains = {record.chain for record in records.values()}
    found = []
    for path in sorted(Path(given.directory).glob("ca*.crt")):
        suffix = path.stem.removeprefix("ca").removeprefix("-")
        number = int(suffix) if suffix.isdigit() else 1
        if number != int(given.ca_generation) and any(
            is_trusted(chain, _read(path)) for chain in chains
        ):
            found.append(number)
    return sorted(found)


def _listed(hosts: Sequence[str], most: int = 3) -> str:
    if len(hosts) > most:
        return f"{', '.join(hosts[:most])} and {len(hosts) - most} more hosts"
    return ", ".join(hosts)


def ending(given: Given, host: str, days: float, now: datetime | None = None) -> Iterator[Fault]:
    """Authorities in use that end within so many days, and a certificate from outside that does."""
    now = now or datetime.now(UTC)

    def soon(item: Certificate) -> str:
        left = item.not_valid_after_utc - now
        if not timedelta(0) < left <= timedelta(days=days):
            return ""
        return f"ends on {item.not_valid_after_utc:%Y-%m-%d}, in {left.days} days"

    try:
        state = host_state(given, host)
        chain = certificates(state["chain"] or signer(given))
        way = chain_to(chain, certificates(state["bundle"] or "")) or chain
    except CertificateError:
        return
    for item in way:
        when = soon(item)
        if not when:
            continue
        if is_authority(item):
            variable = "pki_ca_generation" if given.source == OWN else "pki_ca_bundle"
            if given.source == INTERMEDIATE and item in certificates(given.ca_certificate):
                variable = "pki_ca_certificate"
            remedy = "replace it in time, in the three steps of docs/certificates.md"
            yield Fault(variable, f"uses the authority {title(item)}, which {when}", remedy)
        elif given.source == EXTERNAL and item == chain[0]:
            left = item.not_valid_after_utc - now
            if left <= timedelta(days=given.renew_before_days):
                yield Fault("pki_certificate", when, "have it renewed, and run site.yml")
