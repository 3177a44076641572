"""Ask OpenSSL whether it accepts a certificate, as Redis, nginx and their clients do on the hosts.

`cryptography.x509.verification` follows the rules of public web sites. It refuses private authorities that OpenSSL
accepts, such as those of `openssl req -x509`, and does not know all that OpenSSL refuses.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .wanted import EXTERNAL, PkiVariables, bundle, joined, signer
from .x509 import Certificate, CertificateError, alternative_name, certificates, name_fits, pem

ANY, SERVER, CLIENT = "any", "sslserver", "sslclient"

# Debian's level: 112 bits of security, so RSA from 2048 bits on and no SHA-1.
_LEVEL = "2"
# What X509_STORE_CTX_get_error(3) calls a missing issuer, an unknown root, and an issuer with another key.
_INCOMPLETE = frozenset((2, 7, 18, 19, 20, 21))
_ERROR = re.compile(r"^(.*)\nerror (\d+) at \d+ depth lookup: *(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Refusal:
    """The first thing that OpenSSL refuses in a chain.

    Attributes:
        subject: The subject of the certificate that it refuses.
        reason: Why, in OpenSSL's words.
        incomplete: Whether the chain does not lead to a trusted root.
    """

    subject: str
    reason: str
    incomplete: bool = False

    def __str__(self) -> str:
        return f"{self.reason} ({self.subject})" if self.subject else self.reason


@lru_cache(maxsize=512)
def refusal(chain: str, trusted: str, purpose: str, strict: bool = False) -> Refusal | None:
    """Return what OpenSSL refuses in a chain; None if it accepts it. Times are not checked.

    Args:
        chain: The certificate, and after it those of the authorities above it, in PEM form.
        trusted: The trusted roots in PEM form.
        purpose: `SERVER`, `CLIENT` or `ANY`.
        strict: Whether to ask for all that RFC 5280 demands, as Python does from 3.13 on.

    Raises:
        FileNotFoundError: This machine has no program `openssl`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in (("roots", trusted), ("chain", chain)):
            Path(scratch, name).write_text(text)
        done = subprocess.run(
            [
                *("openssl", "verify", "-no_check_time", "-auth_level", _LEVEL),
                *("-no-CApath", "-no-CAstore", "-CAfile", "roots", "-untrusted", "chain"),
                *("-purpose", purpose, "-nameopt", "RFC2253"),
                *(("-x509_strict",) if strict else ()),
            ],
            cwd=scratch,
            input=chain,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode == 0:
        return None
    found = _ERROR.search(done.stderr)
    if found is None:
        said = done.stderr.strip().splitlines() or [f"openssl ended with {done.returncode}"]
        return Refusal("", said[-1])
    subject, code, reason = found.groups()
    return Refusal(subject, reason, int(code) in _INCOMPLETE)


def not_strict(given: PkiVariables) -> list[str]:
    """Find what Python from 3.13 on, as in Debian 13, would refuse in certificates that OpenSSL accepts."""
    try:
        chain = pem(
            certificates(
                joined(given.certificate, given.chain)
                if given.source == EXTERNAL
                else signer(given)
            )
        )
        found = refusal(chain, bundle(given) or chain, ANY, strict=True)
    except (CertificateError, FileNotFoundError):
        return []
    return [str(found)] if found else []


def sample(names: Iterable[str], authority: Certificate, key: Any, clients: bool) -> str:
    """Return a certificate as the role `pki` makes them for hosts, in PEM form. Its own key is thrown away.

    Args:
        names: The host's names and addresses.
        authority: The signer's certificate.
        key: The signer's private key.
        clients: Whether clients will show it, too.
    """
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    wanted = [alternative_name(name).partition(":") for name in names if name_fits(name)]
    found: list[x509.GeneralName] = [
        x509.IPAddress(ip_address(text)) if kind == "IP" else x509.DNSName(text)
        for kind, _, text in wanted
    ]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "host")]))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage(usages if clients else usages[:1]), critical=False)
    )
    if found:
        builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
    digest = (
        None
        if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        else hashes.SHA256()
    )
    made = builder.sign(key, digest)
    return made.public_bytes(serialization.Encoding.PEM).decode()
