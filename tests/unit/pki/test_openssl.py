"""Preflight's checks of certificates, compared with OpenSSL: a handshake with each certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import faults as pki_faults
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import openssl as pki_openssl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import wanted as pki_wanted
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts import (
    reachability as hosts,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.certificates import text_of

HOST = "worker1"
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
Extensions = list[tuple[x509.ExtensionType, bool]]


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _USAGES})


class One:
    """A certificate with its key, which may have any mistake."""

    def __init__(
        self,
        name: str,
        above: One | None = None,
        *,
        subject: str | None = None,
        own: bool = True,
        signer: bool = True,
        extensions: Extensions,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        text = name if subject is None else subject
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else []
        self.name = x509.Name(attributes)
        above = above or self
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(above.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=100))
        )
        of_own = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        of_signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key())
        for wanted, identifier in ((own, of_own), (signer, of_signer)):
            if wanted:
                builder = builder.add_extension(identifier, critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(above.key, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM).decode()


def authority(
    above: One | None = None,
    *more: x509.ExtensionType,
    path: int | None = None,
    critical: bool = True,
    signs: bool = True,
    **options: Any,
) -> One:
    extensions: Extensions = [(x509.BasicConstraints(ca=True, path_length=path), critical)]
    if signs:
        extensions.append((usage("key_cert_sign", "crl_sign"), True))
    extensions += [(one, isinstance(one, x509.NameConstraints)) for one in more]
    return One("middle" if above else "root", above, extensions=extensions, **options)


def host(
    above: One, *more: x509.ExtensionType, names_critical: bool = False, **options: Any
) -> One:
    names = x509.SubjectAlternativeName([x509.DNSName(HOST)])
    extensions = [(names, names_critical), *((one, True) for one in more)]
    return One("host", above, extensions=extensions, **options)


class Case(NamedTuple):
    """The certificates that a server shows, from the host's to the one below the root, and the root."""

    shown: list[One]
    root: One


def middle(*more: x509.ExtensionType, **options: Any) -> Case:
    """Return a case in which only the intermediate authority is unusual."""
    root = authority()
    between = authority(root, *more, **options)
    return Case([host(between), between], root)


def leaf(*more: x509.ExtensionType, **options: Any) -> Case:
    """Return a case in which only the host's certificate is unusual."""
    root = authority()
    return Case([host(root, *more, **options)], root)


def top(*more: x509.ExtensionType, between: bool = False, **options: Any) -> Case:
    """Return a case in which only the root is unusual."""
    root = authority(None, *more, **options)
    below = [authority(root)] if between else []
    return Case([host(below[0] if below else root), *below], root)


def two_in_the_middle(path: int) -> Case:
    root = authority()
    upper = authority(root, path=path, subject="upper")
    lower = authority(upper)
    return Case([host(lower), lower, upper], root)


def names(
    permitted: list[str] | None = None, excluded: list[str] | None = None
) -> x509.NameConstraints:
    lists = (
        None if some is None else [x509.DNSName(name) for name in some]
        for some in (permitted, excluded)
    )
    return x509.NameConstraints(*lists)


CASES: dict[str, Callable[[], Case]] = {
    "as usual": middle,
    "no middle": leaf,
    "pathlen that is enough": lambda: top(path=1, between=True),
    "pathlen of the root": lambda: top(path=0, between=True),
    "pathlen without a middle": lambda: top(path=0),
    "pathlen in the middle": lambda: two_in_the_middle(0),
    "pathlen in the middle that is enough": lambda: two_in_the_middle(1),
    "names that are permitted": lambda: middle(names([HOST])),
    "names that are not permitted": lambda: middle(names(["example.com"])),
    "names that are excluded": lambda: middle(names(None, [HOST])),
    "other names excluded": lambda: middle(names(None, ["example.com"])),
    "addresses permitted alone": lambda: middle(
        x509.NameConstraints([x509.IPAddress(ip_network("10.0.0.0/8"))], None)
    ),
    "middle for clients alone": lambda: middle(x509.ExtendedKeyUsage([CLIENT])),
    "middle for servers": lambda: middle(x509.ExtendedKeyUsage([SERVER])),
    "root for clients alone": lambda: top(x509.ExtendedKeyUsage([CLIENT])),
    "any purpose": lambda: leaf(x509.ExtendedKeyUsage([ANY])),
    "for servers": lambda: leaf(x509.ExtendedKeyUsage([SERVER])),
    "key that may sign alone": lambda: leaf(usage("key_cert_sign")),
    "key that may sign as well": lambda: leaf(usage("digital_signature", "key_cert_sign")),
    "key that may encipher": lambda: leaf(usage("key_encipherment")),
    "key that may repudiate nothing": lambda: leaf(usage("content_commitment")),
    "host without its signer's key": lambda: leaf(signer=False),
    "host without its own key": lambda: leaf(own=False),
    "host that is an authority": lambda: leaf(x509.BasicConstraints(ca=True, path_length=None)),
    "host without a subject": lambda: leaf(subject=""),
    "host without a subject, by names": lambda: leaf(subject="", names_critical=True),
    "middle without its signer's key": lambda: middle(signer=False),
    "middle without its own key": lambda: middle(own=False),
    "middle, not critical": lambda: middle(critical=False),
    "middle without a usage": lambda: middle(signs=False),
    "root without its own key": lambda: top(own=False),
    "root without its signer's key": lambda: top(signer=False),
    "root, not critical": lambda: top(critical=False),
    "root without a usage": lambda: top(signs=False),
}


def handshake(given: pki_wanted.PkiVariables, strict: bool, scratch: Path) -> bool:
    """Return whether a client trusts a server with these certificates."""
    state = pki_wanted.host_state(given, HOST)
    (scratch / "chain").write_text(state["chain"])
    (scratch / "key").write_text(given.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(scratch / "chain", scratch / "key")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=given.ca_bundle)
    if strict:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=HOST),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    assert not waiting
    return True


def given_of(case: Case, **changes: Any) -> pki_wanted.PkiVariables:
    first, *more = case.shown
    values: dict[str, Any] = {
        "source": "external",
        "mode": "server",
        "directory": "/none",
        "names": [HOST],
        "ca_bundle": case.root.pem,
        "certificate": first.pem,
        "key": text_of(first.key),
        "chain": "".join(one.pem for one in more),
    }
    return pki_wanted.PkiVariables(**{**values, **changes})


@pytest.mark.parametrize("title", CASES)
def test_preflight_refuses_exactly_what_openssl_refuses(title: str, tmp_path: Path) -> None:
    given = given_of(CASES[title]())
    faults = list(pki_faults.faults(given))
    assert (faults == []) == handshake(given, strict=False, scratch=tmp_path), faults
    assert all(fault.remedy for fault in faults)


@pytest.mark.parametrize("title", CASES)
def test_preflight_knows_what_python_3_13_also_refuses(title: str, tmp_path: Path) -> None:
    given = given_of(CASES[title]())
    if handshake(given, strict=False, scratch=tmp_path):
        found = pki_openssl.not_strict(given)
        assert (found == []) == handshake(given, strict=True, scratch=tmp_path), found


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"path": 0}, ""),
        ({"more": names(["example.com"])}, "permitted subtree violation"),
        ({"more": x509.ExtendedKeyUsage([CLIENT])}, "unsuitable certificate purpose (CN=middle)"),
    ],
)
def test_an_intermediate_that_could_not_sign_for_a_host(more: dict[str, Any], words: str) -> None:
    root = authority()
    between = authority(root, *filter(None, [more.pop("more", None)]), **more)
    given = given_of(
        Case([between], root),
        source="intermediate",
        certificate="",
        key="",
        ca_certificate=between.pem,
        ca_key=text_of(between.key),
    )
    found = [fault.message for fault in pki_faults.faults(given)]
    assert (words in " ".join(found)) if words else found == []


def test_clients_certificates_are_for_clients_all_the_way_up() -> None:
    case = middle(x509.ExtendedKeyUsage([SERVER]))
    assert list(pki_faults.faults(given_of(case))) == []
    (fault,) = pki_faults.faults(given_of(case, mode="mutual"))
    assert "OpenSSL for clients: unsuitable certificate purpose (CN=middle)" in fault.message


def test_only_hosts_with_a_strict_python_report_such_certificates() -> None:
    asked = {HOST: {"certificate": ["'root' has no key usage"]}}
    fact = {"reachable": True, "reason": "", "uid": 0}

    def found(*versions: str) -> list[str]:
        facts = {
            f"h{number}": {**fact, "python_version": one} for number, one in enumerate(versions)
        }
        problems = hosts.check_facts(facts, {}, asked=asked)
        return [one.message for one in problems if one.variable == "pki_certificate"]

    assert found("3.11.2", "3.12.1") == []
    (words,) = found("3.11.2", "3.13.5")
    assert "h1" in words
    assert "'root' has no key usage" in words
