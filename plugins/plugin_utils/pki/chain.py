"""Follow the chain of a certificate to its root."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from .x509 import (
    LONGEST_CHAIN,
    Certificate,
    CertificateError,
    certificates,
    key_of,
    names,
    serves_clients,
)


def is_root(certificate: Certificate) -> bool:
    """Return whether a certificate names itself as its issuer."""
    return certificate.subject == certificate.issuer


def is_signed_by(certificate: Certificate, signer: Certificate) -> bool:
    """Return whether an authority has signed a certificate, by its name and its key."""
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def chain_to(
    chain: Sequence[Certificate], trusted: Sequence[Certificate]
) -> list[Certificate] | None:
    """Return the chain from the first certificate to a trusted root; None if there is none.

    Only a root can be the end of a chain. OpenSSL, and so Redis, does not accept an intermediate authority there.

    Args:
        chain: The certificate, and then those of authorities above it, in any order.
        trusted: The trusted authorities.
    """
    roots = [root for root in trusted if is_root(root)]

    def search(way: list[Certificate]) -> list[Certificate] | None:
        last = way[-1]
        if last in roots:
            return way
        for root in roots:
            if is_signed_by(last, root):
                return [*way, root]
        for item in chain[1:]:
            if item not in way and len(way) < LONGEST_CHAIN and is_signed_by(last, item):
                found = search([*way, item])
                if found:
                    return found
        return None

    return search([chain[0]]) if chain else None


def is_trusted(chain: str, bundle: str) -> bool:
    """Return whether a host's certificate, with its chain, leads to one of these authorities."""
    try:
        return chain_to(certificates(chain), certificates(bundle)) is not None
    except CertificateError:
        return False


def certificate_serves(
    text: str,
    wanted: Sequence[str],
    authority: str,
    days: float,
    key: str,
    clients: bool = False,
) -> bool:
    """Return whether a certificate is for exactly these names, is signed by this authority, and lasts long enough.

    Args:
        text: The certificate.
        wanted: Names as `alternative_name` writes them.
        authority: The signer's certificate.
        days: How many days it must still be valid.
        key: Its private key. A run that broke off may have made another one.
        clients: Whether clients will show it, too.

    Raises:
        CertificateError: A text has no certificate, or a broken one.
        ValueError: The key is broken.
        TypeError: The key is encrypted.
    """
    certificate, signer = certificates(text)[0], certificates(authority)[0]
    private = serialization.load_pem_private_key(key.encode(), password=None)
    if private.public_key() != key_of(certificate) or not is_signed_by(certificate, signer):
        return False
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    return (
        names(certificate) == set(wanted)
        and left > timedelta(days=float(days))
        and (serves_clients(certificate) or not clients)
    )
