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

# Steps from a host's certificate to its root; a longer chain is a circle.
_LONGEST = 10

# Of a common name; a later authority's has its number behind it.
LONGEST_TITLE = 60

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"

_NAME = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*", re.ASCII)

_BEGIN = "-----BEGIN "

_FROM_FILE = (
    "give its text in PEM form, which begins with -----BEGIN; of a file on the control side by "
    "{{ lookup('ansible.builtin.file', 'PATH') }}"
)

Certificate = x509.Certificate


class CertificateError(ValueError):
    """A text is no certificate or no key; the message holds nothing of it."""


def alternative_name(name: str) -> str:
    """A host name or address in the form that a certificate request takes.

    Of an IPv6 address without its link (`%eth0`), for which a certificate has no place.
    """
    try:
        return f"IP:{ipaddress.ip_address(str(name).partition('%')[0])}"
    except ValueError:
        return f"DNS:{name}"


def name_fits(name: str) -> bool:
    """Whether a certificate can be for this name or address."""
    return alternative_name(name).startswith("IP:") or _NAME.fullmatch(name) is not None


def title_fits(text: str) -> bool:
    """Whether an authority can be called so."""
    return 1 <= len(text) <= LONGEST_TITLE and text.isprintable()


def certificates(text: str) -> list[Certificate]:
    """All certificates of a text in PEM form.

    Raises:
        CertificateError: There is none, or what stands there is broken.
    """
    return list(_certificates(str(text)))


@lru_cache(maxsize=512)
def _certificates(text: str) -> tuple[Certificate, ...]:
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise CertificateError("holds no certificate in PEM form")
    try:
        return tuple(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        raise CertificateError("holds something that is no certificate") from None


def pem(found: Iterable[Certificate]) -> str:
    """Certificates as one text, each once."""
    texts = (item.public_bytes(serialization.Encoding.PEM).decode() for item in found)
    return "".join(dict.fromkeys(texts))


def private_key(text: str, passphrase: str | None = None) -> Any:
    """A private key.

    Raises:
        CertificateError: It is none, or its passphrase is missing or wrong.
    """
    if _BEGIN not in text:
        raise CertificateError("holds no key in PEM form")
    # A passphrase of an open key is one too many to the library, and nothing wrong to us.
    tries = [passphrase.encode()] if passphrase else []
    trouble: Exception | None = None
    for secret in (*tries, None):
        try:
            return serialization.load_pem_private_key(text.encode(), password=secret)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            trouble = trouble or error
    if isinstance(trouble, TypeError) or is_encrypted(text):
        how = "its passphrase does not open it" if passphrase else "is encrypted"
        raise CertificateError(how)
    raise CertificateError("holds something that is no private key")


def is_encrypted(text: str) -> bool:
    """Whether a key in PEM form has a passphrase."""
    return "ENCRYPTED" in text


def title(certificate: Certificate) -> str:
    """What people call a certificate: its common name, or all of its subject."""
    return _called(certificate.subject)


def issuer(certificate: Certificate) -> str:
    """What people call who signed it."""
    return _called(certificate.issuer)


def _called(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(str(common[0].value) if common else name.rfc4514_string())


def names(certificate: Certificate) -> set[str]:
    """The names that it is for, as `alternative_name` writes them."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    return {
        *(f"DNS:{name}" for name in found.get_values_for_type(x509.DNSName)),
        *(f"IP:{address}" for address in found.get_values_for_type(x509.IPAddress)),
    }


def covers(certificate: Certificate, name: str) -> bool:
    """Whether it is for a name."""
    return is_named(name, names(certificate))


def is_named(name: str, among: Iterable[str]) -> bool:
    """Whether a name is one of those that `alternative_name` wrote; a star stands for the first part of one."""
    wanted = alternative_name(name).lower()
    found = {item.lower() for item in among}
    _, dot, rest = wanted.removeprefix("DNS:".lower()).partition(".")
    star = f"dns:*.{rest}" if dot and wanted.startswith("dns:") else ""
    return wanted in found or star in found


def is_authority(certificate: Certificate) -> bool:
    """Whether it may sign others."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        # A use of the key that is not said is not restricted.
        return error.oid == x509.KeyUsage.oid and basic.ca
    except ValueError:
        return False
    return basic.ca and usage.key_cert_sign


def serves_clients(certificate: Certificate) -> bool:
    """Whether a client may show it."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in found


def _key_of(certificate: Certificate) -> Any:
    """Its public key; nothing for one of a kind that is not known here, such as an unusual curve."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        raise CertificateError(f"can't be read: {path}") from None
