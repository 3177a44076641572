"""Follow the chain of a certificate to its root, and say what OpenSSL would refuse."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.x509 import (
    _LONGEST,
    _WEAK,
    Certificate,
    CertificateError,
    _critical,
    _extension,
    _hash_of,
    _key_of,
    certificates,
    names,
    serves_clients,
    serves_servers,
    title,
)
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def _constrained(authority: Certificate, names: Iterable[str]) -> list[str]:
    """Names, as `alternative_name` writes them, for which an authority may not sign."""
    constraints = _extension(authority, x509.NameConstraints)
    if constraints is None:
        return []
    refused = []
    for name in names:
        kind = x509.IPAddress if name.startswith("IP:") else x509.DNSName
        permitted, excluded = (
            [tree.value for tree in trees or () if isinstance(tree, kind)]
            for trees in (constraints.permitted_subtrees, constraints.excluded_subtrees)
        )
        text = name.partition(":")[2]
        if any(_below(text, tree) for tree in excluded) or (
            permitted and not any(_below(text, tree) for tree in permitted)
        ):
            refused.append(text)
    return refused


def _below(name: str, tree: Any) -> bool:
    if not isinstance(tree, str):
        return ipaddress.ip_address(name) in tree
    wanted, found = tree.lower().removeprefix("."), name.lower()
    return not wanted or found == wanted or found.endswith(f".{wanted}")


def _is_self_signed(certificate: Certificate) -> bool:
    return _signed(certificate, certificate)


def _signed(certificate: Certificate, signer: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return _signed_weakly(certificate, signer)
    return True


def _signed_weakly(certificate: Certificate, signer: Certificate) -> bool:
    """The same by way of SHA-1, which the library takes from nobody, and OpenSSL where a root signs itself."""
    key, how = _key_of(signer), _hash_of(certificate)
    if certificate.issuer != signer.subject or not isinstance(how, _WEAK):
        return False
    by = certificate.signature_algorithm_parameters
    given = (certificate.signature, certificate.tbs_certificate_bytes)
    try:
        if isinstance(key, rsa.RSAPublicKey) and not isinstance(by, ec.ECDSA | None):
            key.verify(*given, by, how)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(by, ec.ECDSA):
            key.verify(*given, by)
        else:
            return False
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def chain_to(
    chain: Sequence[Certificate], trusted: Sequence[Certificate]
) -> list[Certificate] | None:
    """From the first certificate to one that is trusted, both included; nothing where no way leads there.

    Only what signs itself is an end: to OpenSSL, and so to Redis, an authority in the middle is none.
    """
    roots = [root for root in trusted if _is_self_signed(root)]

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


def steps_refused(
    way: Sequence[Certificate], names: Iterable[str], clients: bool, leaf: bool = True
) -> Iterator[str]:
    """Why OpenSSL does not go a way that signatures alone allow.

    Args:
        way: As `chain_to` finds it.
        names: What the host's certificate is, or will be, for, as `alternative_name` writes them.
        clients: Whether clients show it, too.
        leaf: Whether it begins with the host's certificate, and not with who signs that.
    """
    names = list(names)
    for index, item in enumerate(way):
        if leaf and not index:
            continue
        # Between it and the host's certificate; RFC 5280, 4.2.1.9, does not count an authority that renews itself.
        between = sum(one.subject != one.issuer for one in way[int(leaf) : index])
        basic = _extension(item, x509.BasicConstraints)
        if basic is not None and basic.path_length is not None and between > basic.path_length:
            yield (
                f"{title(item)}, which allows {basic.path_length} authorities below it (pathlen), and there "
                f"{'is' if between == 1 else 'are'} {between}"
            )
        refused = _constrained(item, names)
        if refused:
            yield f"{title(item)}, which may not sign for {', '.join(refused)} (name constraints)"
        for serves, what in ((serves_servers, "serverAuth"), (serves_clients, "clientAuth")):
            if not serves(item) and (what == "serverAuth" or clients):
                yield f"{title(item)}, which has extended key usages without {what}"


def strict_refusals(way: Sequence[Certificate]) -> list[str]:
    """Why Python from 3.13 on does not go a way that OpenSSL by itself goes: it asks for all that RFC 5280 demands."""
    found = []
    for index, item in enumerate(way):
        basic, usage = _extension(item, x509.BasicConstraints), _extension(item, x509.KeyUsage)
        above = _extension(item, x509.AuthorityKeyIdentifier)
        wrong = []
        if index + 1 < len(way) and (above is None or above.key_identifier is None):
            wrong.append("has no authority key identifier")
        if basic is not None and basic.ca:
            if not _critical(item, x509.BasicConstraints):
                wrong.append("has basic constraints that are not critical")
            if usage is None:
                wrong.append("has no key usage")
            if _extension(item, x509.SubjectKeyIdentifier) is None:
                wrong.append("has no subject key identifier")
        elif usage is not None and usage.key_cert_sign:
            wrong.append("may sign (keyCertSign) and is no authority")
        if not len(item.subject) and (index or not _critical(item, x509.SubjectAlternativeName)):
            wrong.append("has no subject")
        if wrong:
            found.append(f"{title(item)} {' and '.join(wrong)}")
    return found


def is_trusted(chain: str, bundle: str) -> bool:
    """Whether a host's certificate, with what stands behind it, leads to one of these authorities."""
    try:
        return chain_to(certificates(chain), certificates(bundle)) is not None
    except CertificateError:
        return False


def certificate_serves(
    text: str,
    names: Sequence[str],
    authority: str,
    days: float,
    key: str,
    clients: bool = False,
) -> bool:
    """Whether a certificate is for exactly these names, signed by this authority, and lasts some more days.

    Args:
        text: The certificate.
        names: Names as `alternative_name` writes them.
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
        _names(certificate) == set(names)
        and left > timedelta(days=float(days))
        and (serves_clients(certificate) or not clients)
    )


_names = names
