"""Read certificates and keys."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# The most certificates in a chain. A longer one goes round in a circle.
LONGEST_CHAIN = 10

# Characters of an authority's common name. Later authorities have a number after it.
LONGEST_TITLE = 60

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"

_NAME = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*", re.ASCII)

_BEGIN = "-----BEGIN "

FROM_FILE = (
    "give its text in PEM form, which begins with -----BEGIN; for a file on the control node use "
    "{{ lookup('ansible.builtin.file', 'PATH') }}"
)

Certificate = x509.Certificate


class CertificateError(ValueError):
    """A text is not a certificate or not a key. The message does not contain any of it."""


def alternative_name(name: str) -> str:
    """Return a host name or address as a certificate request has it: `DNS:…` or `IP:…`.

    The link of an IPv6 address (`%eth0`) is left out: a certificate can't have it.
    """
    try:
        return f"IP:{ipaddress.ip_address(str(name).partition('%')[0])}"
    except ValueError:
        return f"DNS:{name}"


def name_fits(name: str) -> bool:
    """Return whether a certificate can be for this name or address."""
    return alternative_name(name).startswith("IP:") or _NAME.fullmatch(name) is not None


def title_fits(text: str) -> bool:
    """Return whether an authority can have this name."""
    return 1 <= len(text) <= LONGEST_TITLE and text.isprintable()


def certificates(text: str) -> list[Certificate]:
    """Read all certificates of a text in PEM form.

    Raises:
        CertificateError: The text has no certificate, or a broken one.
    """
    return list(_certificates(str(text)))


@lru_cache(maxsize=512)
def _certificates(text: str) -> tuple[Certificate, ...]:
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise CertificateError("has no certificate in PEM form")
    try:
        return tuple(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        raise CertificateError("has a broken certificate") from None


def pem(found: Iterable[Certificate]) -> str:
    """Write certificates as one text in PEM form, each once."""
    texts = (item.public_bytes(serialization.Encoding.PEM).decode() for item in found)
    return "".join(dict.fromkeys(texts))


def private_key(text: str, passphrase: str | None = None) -> Any:
    """Read a private key.

    Raises:
        CertificateError: It is not a private key, or its passphrase is missing or wrong.
    """
    if _BEGIN not in text:
        raise CertificateError("has no key in PEM form")
    # The library refuses a passphrase for a key that is not encrypted. Here it is ignored.
    tries = [passphrase.encode()] if passphrase else []
    trouble: Exception | None = None
    for secret in (*tries, None):
        try:
            return serialization.load_pem_private_key(text.encode(), password=secret)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            trouble = trouble or error
    if isinstance(trouble, TypeError) or is_encrypted(text):
        how = "can't be decrypted with its passphrase" if passphrase else "is encrypted"
        raise CertificateError(how)
    raise CertificateError("is not a private key")


def is_encrypted(text: str) -> bool:
    """Return whether a key in PEM form has a passphrase."""
    return "ENCRYPTED" in text


def title(certificate: Certificate) -> str:
    """Return what to call a certificate: its common name, or its subject if it has none."""
    return _called(certificate.subject)


def issuer(certificate: Certificate) -> str:
    """Return what to call the authority that signed a certificate."""
    return _called(certificate.issuer)


def _called(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(str(common[0].value) if common else name.rfc4514_string())


def names(certificate: Certificate) -> set[str]:
    """Return the names that a certificate is for, as `alternative_name` writes them."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    return {
        *(f"DNS:{name}" for name in found.get_values_for_type(x509.DNSName)),
        *(f"IP:{address}" for address in found.get_values_for_type(x509.IPAddress)),
    }


def covers(certificate: Certificate, name: str) -> bool:
    """Return whether a certificate is for a name."""
    return is_named(name, names(certificate))


def is_named(name: str, among: Iterable[str]) -> bool:
    """Return whether a name is among those that `alternative_name` wrote. A star matches the first part of a name."""
    wanted = alternative_name(name).lower()
    found = {item.lower() for item in among}
    _, dot, rest = wanted.removeprefix("DNS:".lower()).partition(".")
    star = f"dns:*.{rest}" if dot and wanted.startswith("dns:") else ""
    return wanted in found or star in found


def is_authority(certificate: Certificate) -> bool:
    """Return whether a certificate may sign others."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        # Without a key usage the key is not restricted.
        return error.oid == x509.KeyUsage.oid and basic.ca
    except ValueError:
        return False
    return basic.ca and usage.key_cert_sign


def serves_clients(certificate: Certificate) -> bool:
    """Return whether a client may use a certificate."""
    return _serves(certificate, ExtendedKeyUsageOID.CLIENT_AUTH)


def serves_servers(certificate: Certificate) -> bool:
    """Return whether a server may use a certificate."""
    return _serves(certificate, ExtendedKeyUsageOID.SERVER_AUTH)


def _serves(certificate: Certificate, usage: x509.ObjectIdentifier) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return usage in found


def key_of(certificate: Certificate) -> Any:
    """Return the public key of a certificate; None if the library does not support it, such as an unusual curve."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def read_text(path: Path) -> str:
    """Read a file; empty if there is none.

    Raises:
        CertificateError: The file can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        raise CertificateError(f"can't be read: {path}") from None
