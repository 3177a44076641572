"""Find what is wrong with the certificates, keys and authorities in the inventory, before a run changes any host.

`pki_source` names the source of certificates: the fleet's own authorities, with their files in `pki_directory`; the
user's intermediate authority; or an external certificate for each host.

It is a single file because all sources share the checks of times, keys and chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import serialization

from . import openssl
from .chain import chain_to, is_root, is_signed_by
from .wanted import (
    EXTERNAL,
    INTERMEDIATE,
    OWN,
    PkiVariables,
    authority_certificate,
    authority_key,
    client_pair,
)
from .x509 import (
    FROM_FILE,
    Certificate,
    CertificateError,
    certificates,
    covers,
    is_authority,
    is_encrypted,
    issuer,
    key_of,
    names,
    pem,
    private_key,
    read_text,
    serves_servers,
    title,
)

# What to do, by a word in OpenSSL's reason.
_REMEDIES = {
    "weak": "have it made again with an elliptic curve of 256 bits or RSA of 2048 or more, and signed by SHA-256",
    "purpose": "have it made again for servers (serverAuth, digitalSignature), and with pki_mode: mutual for clients "
    "(clientAuth); or use an authority that may sign for these",
    "": "use an authority that may sign it, or have that authority made again",
}

_FOR_CLIENTS = "have it made again for clients only (clientAuth, digitalSignature)"

_WHOM = {openssl.SERVER: "servers", openssl.CLIENT: "clients", openssl.ANY: "any purpose"}

PUT_BACK = "restore it; or, if it is there, give the user who deploys permission to read it"
LOST = "see “If an authority is lost” in docs/certificates.md"


@dataclass(frozen=True)
class Fault:
    """A reason why hosts can't have what the inventory says.

    Attributes:
        variable: The variable that has to change.
        message: A sentence without its subject, which is the variable.
        remedy: What to do.
    """

    variable: str
    message: str
    remedy: str


def faults(given: PkiVariables, now: datetime | None = None) -> Iterator[Fault]:
    """Find what is wrong with the certificates that the inventory gives to a host."""
    now = now or datetime.now(UTC)
    if given.source == EXTERNAL:
        yield from _of_outside(given, now)
        if given.clients and client_pair(given) != (given.certificate, given.key):
            yield from _of_clients(given, now)
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
        return [], [Fault(variable, str(error), FROM_FILE)]


def _of_bundle(given: PkiVariables) -> Iterator[Fault]:
    found, trouble = _parsed("pki_ca_bundle", given.ca_bundle)
    if given.ca_bundle or given.source == OWN:
        yield from trouble
    for item in found:
        if not is_authority(item):
            yield Fault(
                "pki_ca_bundle",
                f"has {title(item)}, which is not the certificate of an authority (CA:TRUE and keyCertSign)",
                "remove it: only authorities belong there",
            )


def _of_time(variable: str, found: Iterable[Certificate], now: datetime) -> Iterator[Fault]:
    for item in found:
        if item.not_valid_after_utc <= now:
            when = f"{item.not_valid_after_utc:%Y-%m-%d}"
            yield Fault(variable, f"has {title(item)}, which expired on {when}", "have it renewed")
        elif item.not_valid_before_utc > now:
            when = f"{item.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            yield Fault(
                variable,
                f"has {title(item)}, which is not valid before {when}",
                "wait until then, or correct this machine's clock",
            )


def _of_key(
    variable: str, text: str, certificate: Certificate, passphrase: str | None, owner: str
) -> Iterator[Fault]:
    if key_of(certificate) is None:
        yield Fault(
            owner,
            f"has {title(certificate)} with a kind of key that is not supported",
            _REMEDIES["weak"],
        )
        return
    try:
        private = private_key(text, passphrase)
    except CertificateError as error:
        remedy = FROM_FILE
        if "encrypted" in str(error):
            remedy = "give it without a passphrase, which a host can't type, and keep the variable in a vault"
            if variable == "pki_ca_key":
                remedy = "give its passphrase in pki_ca_passphrase"
        elif "passphrase" in str(error):
            remedy = "correct pki_ca_passphrase"
        yield Fault(variable, str(error), remedy)
        return
    if private.public_key() != key_of(certificate):
        yield Fault(
            variable,
            f"is not the key of {title(certificate)}, which is in {owner}",
            f"give the key that belongs to {owner}",
        )


def _of_way(
    variable: str,
    chain: Sequence[Certificate],
    given: PkiVariables,
    now: datetime,
    purposes: Sequence[str],
    sample: str = "",
) -> Iterator[Fault]:
    """Check that hosts which trust `pki_ca_bundle` would accept a chain.

    Args:
        variable: The variable that has the chain.
        chain: The first certificate, and those of the authorities above it.
        given: What the inventory says.
        now: The time.
        purposes: What it is for, as OpenSSL calls it.
        sample: A host's certificate, signed by the first of the chain.
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
    yield from _refused(variable, chain, trusted, purposes, sample)
    way = chain_to(chain, trusted) or []
    yield from _of_time("pki_ca_bundle", [item for item in way if item in trusted], now)


def _refused(
    variable: str,
    chain: Sequence[Certificate],
    trusted: Sequence[Certificate],
    purposes: Sequence[str],
    sample: str,
) -> Iterator[Fault]:
    for purpose in purposes:
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
            if remedy == _REMEDIES["purpose"] and purposes == [openssl.CLIENT]:
                remedy = _FOR_CLIENTS
            said = f"is refused by OpenSSL for {_WHOM[purpose]}: {found}"
            yield Fault(variable, said, remedy)
        return


def _lost(variable: str, chain: Sequence[Certificate], trusted: Sequence[Certificate]) -> Fault:
    way = [chain[0]]
    # Two authorities may have signed each other, so each is taken once.
    while above := [item for item in chain if item not in way and is_signed_by(way[-1], item)]:
        way.append(above[0])
        if is_root(way[-1]):
            break
    last = way[-1]
    if is_root(last):
        return Fault(
            variable,
            f"leads to {title(last)}, which is not in pki_ca_bundle",
            "add that authority to pki_ca_bundle if hosts should trust it, or use a certificate of another one",
        )
    if any(item.subject == last.issuer and is_root(item) for item in trusted):
        return Fault(
            variable,
            f"has {title(last)}, which names {issuer(last)} as its signer, but the {issuer(last)} in pki_ca_bundle has "
            "another key and did not sign it",
            "give the right certificate of the authority, or a certificate that this authority has signed",
        )
    return Fault(
        variable,
        f"lacks its chain: {title(last)} is signed by {issuer(last)}. The certificate of {issuer(last)} is neither in "
        f"{variable} nor in pki_chain, and is not a root in pki_ca_bundle",
        "add the certificates of all authorities between it and the root to pki_chain; or, if "
        f"{issuer(last)} is a root, to pki_ca_bundle",
    )


def _of_outside(given: PkiVariables, now: datetime) -> Iterator[Fault]:
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
            "put the host's own certificate first, and after it the authority that signed it",
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
            "use this host's own certificate; or list in pki_subject_alt_names the names by which others connect to it",
        )
    yield from _of_key("pki_key", given.key, leaf, None, "pki_certificate")
    yield from _of_way("pki_certificate", chain, given, now, _purposes(given))


def _of_clients(given: PkiVariables, now: datetime) -> Iterator[Fault]:
    """Check what a host's clients of Redis show, unless that is the host's own certificate."""
    variable = "pki_client_certificate"
    text, key = client_pair(given)
    own, trouble = _parsed(variable, text)
    yield from trouble
    if not own:
        return
    yield from _of_time(variable, own, now)
    yield from _of_key("pki_client_key", key, own[0], None, variable)
    more = _parsed("pki_chain", given.chain)[0] if given.chain else []
    yield from _of_way(variable, [*own, *more], given, now, [openssl.CLIENT])
    host = _parsed("pki_certificate", given.certificate)[0]
    if host and key_of(host[0]) == key_of(own[0]):
        yield Fault(
            variable,
            "has the key of pki_certificate, with which the application could pretend to be a server of this host",
            "give clients their own key",
        )
    elif serves_servers(own[0]) and any(covers(own[0], name) for name in given.names):
        yield Fault(
            variable,
            "is also for servers with this host's names, so the application could pretend to be one",
            _FOR_CLIENTS,
        )


def _purposes(given: PkiVariables) -> list[str]:
    """Return what a host's certificate is for. Redis also shows it to other instances."""
    return [openssl.SERVER, *([openssl.CLIENT] if given.clients else [])]


def _of_intermediate(given: PkiVariables, now: datetime) -> Iterator[Fault]:
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
            f"begins with {title(first)}, which may not sign others (CA:TRUE and keyCertSign)",
            "put your intermediate authority first, and after it the authority that signed it",
        )
    yield from _of_time("pki_ca_certificate", own, now)
    yield from _of_time("pki_chain", more, now)
    passphrase = given.ca_passphrase or None
    wrong = list(_of_key("pki_ca_key", given.ca_key, first, passphrase, "pki_ca_certificate"))
    yield from wrong
    # Without its key nothing can be signed as a sample.
    sample, purposes = "", [openssl.ANY]
    if not wrong:
        key = private_key(given.ca_key, passphrase)
        sample, purposes = openssl.sample(given.names, first, key, given.clients), _purposes(given)
    yield from _of_way("pki_ca_certificate", [*own, *more], given, now, purposes, sample)


def _of_own(given: PkiVariables, now: datetime) -> Iterator[Fault]:
    number = int(given.ca_generation)
    for generation in given.generations:
        path = authority_certificate(given.directory, generation)
        try:
            text = read_text(path)
            found = certificates(text) if text or path.exists() else []
        except CertificateError as error:
            yield Fault("pki_directory", f"has a {path.name} which {error}", PUT_BACK)
            continue
        signs = generation == number
        if found and signs and not authority_key(given.directory, generation).is_file():
            yield Fault(
                "pki_directory",
                f"has a {path.name} without its {path.stem}.key: nothing can be signed, and a new authority would "
                "replace every certificate of the fleet",
                f"restore {path.stem}.key from your backup; or sign with a new authority: see docs/certificates.md",
            )
        if signs:
            yield from _of_own_key(given, found)
        for item in found if signs else []:
            if not is_authority(item):
                yield Fault(
                    "pki_directory",
                    f"has a {path.name} that may not sign others (CA:TRUE and keyCertSign)",
                    "put the authority's own certificate there; or remove it and its key to have a new one made",
                )
            if item.not_valid_after_utc <= now:
                yield Fault(
                    "pki_ca_generation",
                    f"is {generation}, and that authority expired on {item.not_valid_after_utc:%Y-%m-%d}",
                    f"set pki_ca_generation to {generation + 1}, and remove {given.directory}/hosts: no certificate is "
                    "valid any more, so there is nothing to roll over",
                )


def _of_own_key(given: PkiVariables, found: Sequence[Certificate]) -> Iterator[Fault]:
    """Check the key of the authority that signs. Its certificate may not exist yet."""
    path = authority_key(given.directory, int(given.ca_generation))
    try:
        text = read_text(path)
        if not text:
            return
        key = _public_key(text, given.ca_passphrase)
    except CertificateError as error:
        if "passphrase" in str(error) or "encrypted" in str(error):
            yield Fault(
                "pki_ca_passphrase",
                f"does not open {path}",
                f"give the passphrase that it was encrypted with; if it is lost: {LOST}",
            )
        else:
            yield Fault("pki_directory", f"has a {path.name} which {error}", PUT_BACK)
        return
    if not is_encrypted(text):
        yield Fault(
            "pki_directory",
            f"has a {path.name} that is not encrypted",
            f"encrypt it with pki_ca_passphrase: openssl pkey -aes256 -in {path.name} -out {path.name}.new, then "
            "rename it",
        )
    own = key_of(found[0]) if found else None
    if found and (own is None or key != _public_bytes(own)):
        yield Fault(
            "pki_directory",
            f"has a {path.name} that is not the key of {title(found[0])}, which is in {path.stem}.crt",
            "restore the two that belong together",
        )


@lru_cache(maxsize=16)
def _public_key(text: str, passphrase: str) -> bytes:
    """Return the public side of a key. It is cached, as decrypting is slow and all hosts have the same authority."""
    return _public_bytes(private_key(text, passphrase or None).public_key())


def _public_bytes(key: Any) -> bytes:
    found: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found
