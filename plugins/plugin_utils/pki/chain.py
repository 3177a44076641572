"""Follow the chain of a certificate to its root."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.x509 import (
    _LONGEST,
    Certificate,
    CertificateError,
    _key_of,
    certificates,
    names,
    serves_clients,
)
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization


def _is_root(certificate: Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _signed(certificate: Certificate, signer: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def chain_to(
    chain: Sequence[Certificate], trusted: Sequence[Certificate]
) -> list[Certificate] | None:
    """From the first certificate to one that is trusted, both included; nothing where no way leads there.

    Only what signs itself is an end: to OpenSSL, and so to Redis, an authority in the middle is none.
    """
    roots = [root for root in trusted if _is_root(root)]

    def search(way: list[Certificate]) -> list[Certificate] | None:
        last = way[-1]
        if last in roots:
            return way
        for root in roots:
            if _signed(last, root):
                return [*way, root]
        for item in chain[1:]:
            if item not in way and len(way) < _LONGEST and _signed(last, item):
                found = search([*way, item])
                if found:
                    return found
        return None

    return search([chain[0]]) if chain else None


def is_trusted(chain: str, bundle: str) -> bool:
    """Whether a host's certificate, with what stands behind it, leads to one of these authorities."""
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
    """Whether a certificate is for exactly these names, signed by this authority, and lasts some more days.

    Args:
        text: The certificate.
        wanted: Names as `alternative_name` writes them.
        authority: The signer's certificate.
        days: Fewer days left count as none.
        key: Its private key, which a run that broke off may have made anew.
        clients: Whether a client shows it, too.
    """
    certificate, signer = certificates(text)[0], certificates(authority)[0]
    private = serialization.load_pem_private_key(key.encode(), password=None)
    if private.public_key() != _key_of(certificate) or not _signed(certificate, signer):
        return False
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    return (
        names(certificate) == set(wanted)
        and left > timedelta(days=float(days))
        and (serves_clients(certificate) or not clients)
    )
