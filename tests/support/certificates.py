"""Certificates for tests, with elliptic curve keys because these are created quickly."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    PrivateKeyTypes,
)
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(text: str) -> x509.GeneralName:
    kind, _, name = text.partition(":")
    return x509.DNSName(name) if kind == "DNS" else x509.IPAddress(ipaddress.ip_address(name))


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def text_of(key: PrivateKeyTypes, passphrase: str = "") -> str:
    """Return a key in PEM form, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


class Authority:
    """Signs certificates; it is a root, or another authority has signed it."""

    def __init__(
        self,
        name: str,
        above: Authority | None = None,
        days: float = 3650,
        begins: float = -1,
        key: CertificateIssuerPrivateKeyTypes | None = None,
    ) -> None:
        self.name = _name(name)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.pem = self.signed_by(above or self, None if above is None else 0, days, begins)

    def signed_by(
        self, signer: Authority, path: int | None = None, days: float = 100, begins: float = -1
    ) -> str:
        """Return its certificate signed by another authority, or by itself, in PEM."""
        usage = {name: name in ("key_cert_sign", "crl_sign") for name in _USAGES}
        certificate = (
            signer._builder(self.name, self.key, days, begins)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .sign(signer.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        names: list[str],
        days: float = 100,
        begins: float = -1,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        purposes: list[x509.ObjectIdentifier] | None = None,
    ) -> tuple[str, str]:
        """Return a certificate and its key for names such as `DNS:…` or `IP:…`, both in PEM."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name("host"), key, days, begins)
        if names:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), text_of(key)

    def install(self, directory: Path, *names: str) -> None:
        """Write `ca.crt`, and `host.crt` and `host.key` for names such as `DNS:…` or `IP:…`, as hosts have them."""
        certificate, key = self.issue([*names])
        for name, text in (("ca.crt", self.pem), ("host.crt", certificate), ("host.key", key)):
            (directory / name).write_text(text)

    def _builder(
        self, subject: x509.Name, key: CertificateIssuerPrivateKeyTypes, days: float, begins: float
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        # Without key identifiers Python from 3.13 on trusts no certificate.
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(own, critical=False)
            .add_extension(signer, critical=False)
        )
