"""Certificates as the control side sees them: what each host is to get, and why some can't be given to one.

Where from is `pki_source`: authorities of the fleet's own, whose files lie in `pki_directory`, an intermediate
authority of the user's, or a certificate from outside for each host. What a host had at the end of the last run that
came to its end is kept in a record beside them, one for each host. Held against it, a change of authorities that would
have one side show what the other does not trust is refused before any host is touched: clients read the authorities
whenever they connect, and not all hosts can change in the same moment.

Read by filters within Ansible's process, and by preflight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import openssl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.chain import (
    _is_root,
    _signed,
    chain_to,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.wanted import (
    EXTERNAL,
    INTERMEDIATE,
    OWN,
    Given,
    authority_certificate,
    authority_key,
    bundle,
    joined,
    signer,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.x509 import (
    _FROM_FILE,
    Certificate,
    CertificateError,
    _key_of,
    _read,
    certificates,
    covers,
    is_authority,
    is_encrypted,
    issuer,
    names,
    pem,
    private_key,
    title,
)
from cryptography.hazmat.primitives import serialization

# By a word of OpenSSL's reason.
_REMEDIES = {
    "weak": "have it made anew with an elliptic curve of 256 bits or RSA of 2048 or more, and signed by SHA-256",
    "purpose": "have it made anew for servers (serverAuth, digitalSignature), and for clients (clientAuth) with "
    "pki_mode: mutual; or use an authority that may sign for these",
    "": "use an authority that may sign it, or have that authority made anew",
}

_PUT_BACK = "put it back; or, if it is there, let whoever deploys read it"


@dataclass(frozen=True)
class Fault:
    """Why something can't be given to hosts.

    Attributes:
        variable: The variable that has to change.
        message: The rest of a sentence that begins with the variable.
        remedy: What to do.
    """

    variable: str
    message: str
    remedy: str


def faults(given: Given, host: str, now: datetime | None = None) -> Iterator[Fault]:
    """Why what the inventory gives for a host is refused."""
    now = now or datetime.now(UTC)
    if given.source == EXTERNAL:
        yield from _of_outside(given, now)
    elif given.source == INTERMEDIATE:
        yield from _of_intermediate(given, now)
    else:
        yield from _of_own(given, now)
    if given.source != OWN or given.ca_bundle:
        yield from _of_bundle(given)


def _parsed(variable: str, text: str) -> tuple[list[Certificate], list[Fault]]:
    try:
        return certificates(text), []
    except CertificateError as error:
        return [], [Fault(variable, str(error), _FROM_FILE)]


def _of_bundle(given: Given) -> Iterator[Fault]:
    found, trouble = _parsed("pki_ca_bundle", given.ca_bundle)
    if given.ca_bundle or given.source == OWN:
        yield from trouble
    for item in found:
        if not is_authority(item):
            yield Fault(
                "pki_ca_bundle",
                f"has {title(item)}, which is no certificate of an authority (CA:TRUE and keyCertSign)",
                "leave authorities alone in it",
            )


def _of_time(variable: str, found: Iterable[Certificate], now: datetime) -> Iterator[Fault]:
    for item in found:
        if item.not_valid_after_utc <= now:
            when = f"{item.not_valid_after_utc:%Y-%m-%d}"
            yield Fault(variable, f"has {title(item)}, which ended on {when}", "have it renewed")
        elif item.not_valid_before_utc > now:
            when = f"{item.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            yield Fault(
                variable,
                f"has {title(item)}, which is not valid before {when}",
                "wait until then, or mend this machine's clock",
            )


def _of_key(
    variable: str, text: str, certificate: Certificate, passphrase: str | None, owner: str
) -> Iterator[Fault]:
    if _key_of(certificate) is None:
        yield Fault(
            owner,
            f"has {title(certificate)}, whose key is of a kind that is not known here",
            _REMEDIES["weak"],
        )
        return
    try:
        private = private_key(text, passphrase)
    except CertificateError as error:
        remedy = _FROM_FILE
        if "encrypted" in str(error):
            remedy = "give it open, and keep the variable in a vault: a host has nobody to type its passphrase"
            if variable == "pki_ca_key":
                remedy = "give its passphrase in pki_ca_passphrase"
        elif "passphrase" in str(error):
            remedy = "mend pki_ca_passphrase"
        yield Fault(variable, str(error), remedy)
        return
    if private.public_key() != _key_of(certificate):
        yield Fault(
            variable,
            f"is not the key of {title(certificate)}, which {owner} has",
            f"give the key for which {owner} was made",
        )


def _of_way(
    variable: str, chain: Sequence[Certificate], given: Given, now: datetime, sample: str = ""
) -> Iterator[Fault]:
    """Whether hosts that trust `pki_ca_bundle` would accept a chain.

    Args:
        variable: The variable that the chain is from.
        chain: The first certificate, and those of authorities above it.
        given: What the inventory says.
        now: The time.
        sample: A certificate of a host by the chain's first authority; that goes first then.
    """
    try:
        trusted = certificates(given.ca_bundle)
    except CertificateError:
        if not given.ca_bundle:
            yield Fault(
                "pki_ca_bundle",
                f"is empty: no host would trust {title(chain[0])}",
                "give the certificate of the root authority, in PEM form",
            )
        return
    yield from _refused(variable, chain, trusted, given, sample)
    way = chain_to(chain, trusted) or []
    yield from _of_time("pki_ca_bundle", [item for item in way if item in trusted], now)


def _refused(
    variable: str,
    chain: Sequence[Certificate],
    trusted: Sequence[Certificate],
    given: Given,
    sample: str,
) -> Iterator[Fault]:
    purposes = {openssl.SERVER: "servers", openssl.CLIENT: "clients"}
    if given.source == INTERMEDIATE and not sample:
        # Its key is refused already, so what it would sign is not known.
        purposes = {openssl.ANY: "any purpose"}
    elif not given.clients:
        del purposes[openssl.CLIENT]
    for purpose, whom in purposes.items():
        try:
            found = openssl.refusal(sample + pem(chain), pem(trusted), purpose)
        except FileNotFoundError:
            yield Fault(
                variable, "can't be checked: this machine has no program openssl", "install openssl"
            )
            return
        if found is None:
            continue
        if found.incomplete:
            yield _lost(variable, chain, trusted)
        else:
            remedy = next(text for word, text in _REMEDIES.items() if word in found.reason)
            said = f"is refused by OpenSSL for {whom}: {found}"
            yield Fault(variable, said, remedy)
        return


def _lost(variable: str, chain: Sequence[Certificate], trusted: Sequence[Certificate]) -> Fault:
    way = [chain[0]]
    # Two authorities may have signed each other.
    while above := [item for item in chain if item not in way and _signed(way[-1], item)]:
        way.append(above[0])
        if _is_root(way[-1]):
            break
    last = way[-1]
    if _is_root(last):
        return Fault(
            variable,
            f"leads to {title(last)}, which pki_ca_bundle has not",
            "add that authority to pki_ca_bundle if hosts are to trust it, or use a certificate of another one",
        )
    if any(item.subject == last.issuer and _is_root(item) for item in trusted):
        return Fault(
            variable,
            f"says that {issuer(last)} has signed {title(last)}, but that of pki_ca_bundle has not: it has another key",
            "give the authority's right certificate, or a certificate that it has signed",
        )
    return Fault(
        variable,
        f"lacks its chain: {title(last)} is signed by {issuer(last)}, whose certificate is in none of {variable},"
        " pki_chain and, as a root, pki_ca_bundle",
        "add the certificates of all authorities between it and the root to pki_chain; or, if"
        f" {issuer(last)} is a root, to pki_ca_bundle",
    )


def _of_outside(given: Given, now: datetime) -> Iterator[Fault]:
    own, trouble = _parsed("pki_certificate", given.certificate)
    yield from trouble
    more, trouble = _parsed("pki_chain", given.chain) if given.chain else ([], [])
    yield from trouble
    if not own:
        return
    leaf, chain = own[0], [*own, *more]
    if is_authority(leaf) and len(own) > 1:
        yield Fault(
            "pki_certificate",
            f"begins with an authority, {title(leaf)}",
            "put the host's own certificate first, and after it who signed it",
        )
        return
    yield from _of_time("pki_certificate", own, now)
    yield from _of_time("pki_chain", more, now)
    missing = [name for name in given.names if not covers(leaf, name)]
    if missing:
        have = ", ".join(sorted(item.partition(":")[2] for item in names(leaf))) or "no name at all"
        yield Fault(
            "pki_certificate",
            f"is for {have}, not for {', '.join(missing)}",
            "use this host's own certificate; or say in pki_names by which of its names others call it",
        )
    yield from _of_key("pki_key", given.key, leaf, None, "pki_certificate")
    yield from _of_way("pki_certificate", chain, given, now)


def _of_intermediate(given: Given, now: datetime) -> Iterator[Fault]:
    own, trouble = _parsed("pki_ca_certificate", given.ca_certificate)
    yield from trouble
    more, trouble = _parsed("pki_chain", given.chain) if given.chain else ([], [])
    yield from trouble
    if not own:
        return
    first = own[0]
    if not is_authority(first):
        yield Fault(
            "pki_ca_certificate",
            f"has {title(first)} first, which may not sign others (CA:TRUE and keyCertSign)",
            "put your intermediate authority first, and after it who signed it",
        )
    yield from _of_time("pki_ca_certificate", own, now)
    yield from _of_time("pki_chain", more, now)
    passphrase = given.ca_passphrase or None
    wrong = list(_of_key("pki_ca_key", given.ca_key, first, passphrase, "pki_ca_certificate"))
    yield from wrong
    sample = ""
    if not wrong:
        key = private_key(given.ca_key, passphrase)
        sample = openssl.sample(given.names, first, key, given.clients)
    yield from _of_way("pki_ca_certificate", [*own, *more], given, now, sample)


def _of_own(given: Given, now: datetime) -> Iterator[Fault]:
    number = int(given.ca_generation)
    for generation in given.generations:
        path = authority_certificate(given.directory, generation)
        try:
            text = _read(path)
            found = certificates(text) if text or path.exists() else []
        except CertificateError as error:
            yield Fault("pki_directory", f"has a {path.name} which {error}", _PUT_BACK)
            continue
        signs = generation == number
        if found and signs and not authority_key(given.directory, generation).is_file():
            yield Fault(
                "pki_directory",
                f"has a {path.name} without its {path.stem}.key: nothing can be signed, and a new authority would make "
                "every certificate of the fleet anew",
                f"put {path.stem}.key back from where you keep it; or sign with a new authority: docs/certificates.md",
            )
        if signs:
            yield from _of_own_key(given, found)
        for item in found if signs else []:
            if not is_authority(item):
                yield Fault(
                    "pki_directory",
                    f"has a {path.name} that may not sign others (CA:TRUE and keyCertSign)",
                    "put the authority's own certificate there; or, to have one made, remove it and its key",
                )
            if item.not_valid_after_utc <= now:
                yield Fault(
                    "pki_ca_generation",
                    f"is {generation}, and that authority ended on {item.not_valid_after_utc:%Y-%m-%d}",
                    f"set pki_ca_generation to {generation + 1}, and remove {given.directory}/hosts: nobody is trusted "
                    "any more, so there is nothing to roll over",
                )


def not_strict(given: Given) -> list[str]:
    """What Python from 3.13 on, Debian 13's, would refuse of certificates with which nothing else is wrong."""
    try:
        chain = pem(
            certificates(
                joined(given.certificate, given.chain)
                if given.source == EXTERNAL
                else signer(given)
            )
        )
        found = openssl.refusal(chain, bundle(given) or chain, openssl.ANY, strict=True)
    except (CertificateError, FileNotFoundError):
        return []
    return [str(found)] if found else []


def _of_own_key(given: Given, found: Sequence[Certificate]) -> Iterator[Fault]:
    """Whether the key of the authority that signs opens, and is its key; also where its certificate is yet to come."""
    path = authority_key(given.directory, int(given.ca_generation))
    try:
        text = _read(path)
        if not text:
            return
        key = _public_key(text, given.ca_passphrase)
    except CertificateError as error:
        if "passphrase" in str(error) or "encrypted" in str(error):
            yield Fault(
                "pki_ca_passphrase",
                f"does not open {path}",
                "give the one by which it was made; where that is lost: “Where an authority is lost” in "
                "docs/certificates.md",
            )
        else:
            yield Fault("pki_directory", f"has a {path.name} which {error}", _PUT_BACK)
        return
    if not is_encrypted(text):
        yield Fault(
            "pki_directory",
            f"has a {path.name} that is not encrypted",
            f"encrypt it by pki_ca_passphrase: openssl pkey -aes256 -in {path.name} -out {path.name}.new, then rename",
        )
    own = _key_of(found[0]) if found else None
    if found and (own is None or key != _public_bytes(own)):
        yield Fault(
            "pki_directory",
            f"has a {path.name} that is not the key of {title(found[0])}, which is in {path.stem}.crt",
            "put back the two that belong together",
        )


@lru_cache(maxsize=16)
def _public_key(text: str, passphrase: str) -> bytes:
    """The public side of a key: to open one takes its time, and all hosts have the same authority."""
    return _public_bytes(private_key(text, passphrase or None).public_key())


def _public_bytes(key: Any) -> bytes:
    found: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found
