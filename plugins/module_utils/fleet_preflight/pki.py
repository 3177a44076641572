"""Certificates as the control side sees them: what each host is to get, and why some can't be given to one.

Where from is `pki_source`: authorities of the fleet's own, whose files lie in `pki_directory`, an intermediate
authority of the user's, or a certificate from outside for each host. What a host had at the end of the last run that
came to its end is kept in a record beside them, one for each host. Held against it, a change of authorities that would
have one side show what the other does not trust is refused before any host is touched: clients read the authorities
whenever they connect, and not all hosts can change in the same moment.

Read by filters within Ansible's process, and by preflight.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

# Ansible needs it, too, but ansible-test loads plugins without any library. If it can't be loaded in a run,
# `control.check_installed` says so.
try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True

OWN, INTERMEDIATE, EXTERNAL = "own", "intermediate", "external"
MUTUAL = "mutual"
FORMAT = 1
# What OpenSSL refuses at Debian's security level 2, as 112 bits of security need.
RSA_BITS, CURVE_BITS = 2048, 224
_WEAK = ("md5", "sha1")
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

_PUT_BACK = "put it back; or, if it is there, let whoever deploys read it"

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_Kind = TypeVar("_Kind", bound="x509.ExtensionType")


class CertificateError(ValueError):
    """A text is no certificate or no key; the message holds nothing of it."""


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


# --- names and texts ------------------------------------------------------------------------------------


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


# --- what one certificate says --------------------------------------------------------------------------


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
    return _usable(certificate, ExtendedKeyUsageOID.CLIENT_AUTH)


def serves_servers(certificate: Certificate) -> bool:
    """Whether a server may show it."""
    return _usable(certificate, ExtendedKeyUsageOID.SERVER_AUTH)


def _usable(certificate: Certificate, purpose: x509.ObjectIdentifier) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    # That it is for any purpose is not enough to OpenSSL.
    return purpose in found


def _may_be_shown(certificate: Certificate) -> bool:
    """Whether its key may be used for TLS."""
    usage = _extension(certificate, x509.KeyUsage)
    return usage is None or (
        usage.digital_signature or usage.key_encipherment or usage.key_agreement
    )


def _extension(certificate: Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


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
    if certificate.issuer != signer.subject or how is None or how.name not in _WEAK:
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


def _key_of(certificate: Certificate) -> Any:
    """Its public key; nothing for one of a kind that is not known here, such as an unusual curve."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _hash_of(certificate: Certificate) -> hashes.HashAlgorithm | None:
    """By way of what it is signed; nothing where no hash is said, or one that is not known here."""
    try:
        return certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None


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


def _critical(certificate: Certificate, kind: type[x509.ExtensionType]) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(kind).critical
    except (x509.ExtensionNotFound, ValueError):
        return False


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


# --- the records ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What a host had at the end of the last run that came to its end there.

    Attributes:
        bundle: The authorities that it trusts.
        chain: Its certificate, and what stands behind it.
        clients: Whether all its processes show a certificate to Redis.
    """

    bundle: str
    chain: str
    clients: bool = False


def record_path(directory: str, host: str) -> Path:
    """Where a host's record lies."""
    return Path(directory, "hosts", f"{host}.json")


def record_text(bundle: str, chain: str, clients: bool) -> str:
    """A record as its file has it."""
    content = {"format": FORMAT, "bundle": bundle, "chain": chain, "clients": bool(clients)}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_record(directory: str, host: str) -> Record | None:
    """A host's record; one without any, of before there were records, has what was made for it.

    Raises:
        CertificateError: The file is none of ours.
    """
    path = record_path(directory, host)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError
        return Record(str(content["bundle"]), str(content["chain"]), content["clients"] is True)
    except FileNotFoundError:
        return _record_of_before(directory, host)
    except (OSError, ValueError, LookupError, TypeError):
        raise CertificateError(f"can't be read: {path}") from None


def _record_of_before(directory: str, host: str) -> Record | None:
    authority = _read(authority_certificate(directory, 1))
    certificate = _read(Path(directory, "hosts", f"{host}.crt"))
    if not authority or not certificate:
        return None
    return Record(authority, certificate + authority)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        raise CertificateError(f"can't be read: {path}") from None


def everybody_shows_one(directory: str, hosts: Iterable[str]) -> bool:
    """Whether the processes of all these hosts show Redis a certificate."""
    records = [read_record(directory, host) for host in hosts]
    return bool(records) and all(record is not None and record.clients for record in records)


# --- what a host is to get ------------------------------------------------------------------------------


def authority_certificate(directory: str, generation: int) -> Path:
    """The certificate of one of the fleet's own authorities."""
    return Path(directory, "ca.crt" if generation == 1 else f"ca-{generation}.crt")


def authority_key(directory: str, generation: int) -> Path:
    """Its key, encrypted."""
    return authority_certificate(directory, generation).with_suffix(".key")


@dataclass(frozen=True)
class Given:
    """What the inventory says of a host's certificate; the roles' variables of these names, `pki_` before them."""

    source: Literal["own", "intermediate", "external"]
    mode: str
    directory: str
    names: Sequence[str] = ()
    ca_bundle: str = ""
    ca_generation: int = 1
    ca_trusted_generations: Sequence[int] = ()
    ca_certificate: str = ""
    ca_key: str = field(default="", repr=False)
    ca_passphrase: str = field(default="", repr=False)
    certificate: str = ""
    key: str = field(default="", repr=False)
    chain: str = ""
    renew_before_days: float = 30

    @property
    def generations(self) -> list[int]:
        """Of the own authorities that hosts trust, the one that signs first."""
        return list(
            dict.fromkeys((int(self.ca_generation), *map(int, self.ca_trusted_generations)))
        )

    @property
    def clients(self) -> bool:
        """Whether clients show a certificate, too."""
        return self.mode == MUTUAL


def joined(*texts: str) -> str:
    """PEM texts one after the other, each with its end of line."""
    return "".join(f"{text.strip()}\n" for text in texts if text and text.strip())


def signer(given: Given) -> str:
    """The certificate of who signs for hosts, and what stands above it; nothing where it is yet to be made."""
    if given.source == OWN:
        return _read(authority_certificate(given.directory, int(given.ca_generation)))
    return joined(given.ca_certificate, given.chain)


def bundle(given: Given) -> str:
    """The authorities that hosts are to trust; nothing where one of them is yet to be made."""
    if given.source != OWN:
        return pem(certificates(given.ca_bundle))
    own = [_read(authority_certificate(given.directory, number)) for number in given.generations]
    if not all(own):
        return ""
    return pem(certificates(joined(*own, given.ca_bundle)))


def host_state(given: Given, host: str) -> dict[str, Any]:
    """What a host is to have: `bundle`, `chain` and `key`, each none where it is yet to be made.

    `issue` says that its certificate has to be made.

    Raises:
        CertificateError: A file of the control side is broken.
    """
    trusted = bundle(given) or None
    if given.source == EXTERNAL:
        chain = pem(certificates(joined(given.certificate, given.chain)))
        return {"bundle": trusted, "chain": chain, "key": joined(given.key), "issue": False}
    text = _read(Path(given.directory, "hosts", f"{host}.crt"))
    key = _read(Path(given.directory, "hosts", f"{host}.key"))
    above = signer(given)
    try:
        good = bool(text and key and above) and certificate_serves(
            text,
            [alternative_name(name) for name in given.names],
            above,
            given.renew_before_days,
            key,
            given.clients,
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Broken, or a key that somebody has encrypted: of no use, and made anew.
        good = False
    return {
        "bundle": trusted,
        "chain": pem(certificates(joined(text, above))) if good else None,
        "key": key or None,
        "issue": not good,
    }


# --- what can't be given --------------------------------------------------------------------------------


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


def _of_strength(variable: str, found: Iterable[Certificate]) -> Iterator[Fault]:
    for item in found:
        weak, how = _weakness(_key_of(item)), _hash_of(item)
        if weak:
            yield Fault(
                variable,
                f"has {title(item)}, whose key is weak: {weak}",
                f"have it made anew with an elliptic curve of 256 bits or RSA of {RSA_BITS} or more",
            )
        # Nobody looks at a root's own signature.
        elif how is not None and how.name in _WEAK and not _is_self_signed(item):
            yield Fault(
                variable,
                f"has {title(item)}, which is signed by way of {how.name.upper()}",
                "have it signed anew by way of SHA-256: hosts refuse this one",
            )


def _weakness(key: object) -> str:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS:
        return f"RSA of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < CURVE_BITS:
        return f"an elliptic curve of {key.key_size} bits"
    if key is None:
        return "of a kind that is not known here"
    return "DSA" if isinstance(key, dsa.DSAPublicKey) else ""


def _of_key(
    variable: str, text: str, certificate: Certificate, passphrase: str | None, owner: str
) -> Iterator[Fault]:
    if _key_of(certificate) is None:
        # Refused as what it is.
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
    variable: str, chain: Sequence[Certificate], given: Given, now: datetime
) -> Iterator[Fault]:
    """Whether a way leads to a trusted authority, and every step of it may be taken."""
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
    way = chain_to(chain, trusted)
    if way is None:
        yield _lost(variable, chain, trusted)
        return
    for item in way[1:]:
        if not is_authority(item):
            yield Fault(
                variable,
                f"leads by way of {title(item)}, which may not sign others (CA:TRUE and keyCertSign)",
                "use a certificate that an authority has signed",
            )
    tops = [item for item in way[1:] if item in trusted]
    yield from _of_time("pki_ca_bundle", tops, now)
    yield from _of_strength("pki_ca_bundle", tops)
    leaf = given.source == EXTERNAL
    wanted = names(way[0]) if leaf else map(alternative_name, given.names)
    for words in steps_refused(way, wanted, given.clients, leaf):
        yield Fault(
            variable,
            f"leads by way of {words}",
            "use an authority that may, or have it made anew",
        )


def _lost(variable: str, chain: Sequence[Certificate], trusted: Sequence[Certificate]) -> Fault:
    way = [chain[0]]
    # Two authorities may have signed each other.
    while above := [item for item in chain if item not in way and _signed(way[-1], item)]:
        way.append(above[0])
        if _is_self_signed(way[-1]):
            break
    last = way[-1]
    if _is_self_signed(last):
        return Fault(
            variable,
            f"leads to {title(last)}, which pki_ca_bundle has not",
            "add that authority to pki_ca_bundle if hosts are to trust it, or use a certificate of another one",
        )
    if any(item.subject == last.issuer and _is_self_signed(item) for item in trusted):
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
    yield from _of_strength("pki_certificate", own)
    yield from _of_strength("pki_chain", more)
    missing = [name for name in given.names if not covers(leaf, name)]
    if missing:
        have = ", ".join(sorted(item.partition(":")[2] for item in names(leaf))) or "no name at all"
        yield Fault(
            "pki_certificate",
            f"is for {have}, not for {', '.join(missing)}",
            "use this host's own certificate; or say in pki_names by which of its names others call it",
        )
    for usable, what in ((serves_servers, "serverAuth"), (serves_clients, "clientAuth")):
        if not usable(leaf) and (what == "serverAuth" or given.clients):
            yield Fault(
                "pki_certificate",
                f"has extended key usages without {what}",
                "have it made anew for servers" + (" and for clients" if given.clients else ""),
            )
    if not _may_be_shown(leaf):
        yield Fault(
            "pki_certificate",
            "has a key usage with which it can't be shown (digitalSignature)",
            "have it made anew for servers" + (" and for clients" if given.clients else ""),
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
    yield from _of_strength("pki_ca_certificate", own)
    yield from _of_strength("pki_chain", more)
    yield from _of_key(
        "pki_ca_key", given.ca_key, first, given.ca_passphrase or None, "pki_ca_certificate"
    )
    yield from _of_way("pki_ca_certificate", [*own, *more], given, now)


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
        if given.source == EXTERNAL:
            chain = certificates(joined(given.certificate, given.chain))
        else:
            chain = certificates(signer(given))
        trusted = bundle(given)
        way = chain_to(chain, certificates(trusted)) if trusted else chain[:1]
    except CertificateError:
        return []
    return strict_refusals(way or [])


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


# --- from what hosts have to what they are to have ------------------------------------------------------


_LOST = Fault(
    "pki_directory",
    "has none of the fleet's own authorities any more, and this host has a certificate of one",
    "put ca.crt and ca.key back from where you keep them; where they are lost: “Where an authority is lost” in "
    "docs/certificates.md",
)


def _is_lost(given: Given) -> bool:
    return given.source == OWN and not any(Path(given.directory).glob("ca*.crt"))


def stranger(shown: str, directory: str, more: str = "") -> Fault | None:
    """Whether a host's certificate is of an authority that the control side does not know.

    A checkout that lacks `pki_directory`, or has an old copy of it, would make the fleet an authority that neither the
    other hosts (under `--limit`) nor the other checkouts know.

    Args:
        shown: The host's certificate with its chain, as it lies there.
        directory: The own authorities' (`pki_directory`). Each certificate in it is known, whatever its file's name.
        more: Other authorities that hosts trust (`pki_ca_bundle`).

    Returns:
        What is wrong; nothing where the authority is known, or the host has no certificate that could be read.
    """
    chain = _readable(shown)
    if not chain:
        return None
    known = _readable(more)
    for path in sorted(Path(directory).glob("*.crt")):
        known += _readable(path)
    if chain_to(chain, known):
        return None
    which = "lacks the authority" if known else "has no authority, and not that"
    return Fault(
        "pki_directory",
        f"{which} of the certificate that this host has, {issuer(chain[-1])}: another checkout made it",
        f"copy all of {directory} from where the fleet was deployed last; where it is nowhere any more: "
        "“Where an authority is lost” in docs/certificates.md",
    )


def _readable(given: str | Path) -> list[Certificate]:
    """The certificates of a text or a file; none where there are none. What is wrong with it is said elsewhere."""
    try:
        return certificates(_read(given) if isinstance(given, Path) else given)
    except CertificateError:
        return []


def rollover_faults(given: Mapping[str, Given]) -> list[tuple[str, Fault]]:
    """Where a host would show what others don't trust yet, or trust no longer what others show still.

    Args:
        given: What the inventory says, of every host of the fleet, also of those that a run leaves out.

    Returns:
        Hosts with what is wrong; each reason once.
    """
    try:
        records = {
            host: record
            for host, of in given.items()
            if (record := read_record(of.directory, host)) is not None
        }
        found: list[tuple[str, Fault]] = []
        lost = [host for host, of in given.items() if host in records and _is_lost(of)]
        if lost:
            return [(host, _LOST) for host in lost]
        seen: dict[tuple[str, str], bool] = {}
        for host, of in given.items():
            found += [(host, fault) for fault in _of_change(host, of, records, seen)]
    except CertificateError as error:
        return [("", Fault("pki_directory", f"has a file which {error}", _PUT_BACK))]
    return found


def disagreements(given: Mapping[str, Given], servers: Iterable[str]) -> list[tuple[str, Fault]]:
    """Hosts that could not connect once all have what they are to get: they don't trust what the other side shows.

    Args:
        given: As `rollover_faults` takes it.
        servers: Hosts of Redis, to which all others connect.
    """
    strange: dict[tuple[str, str], list[str]] = {}
    for server in servers:
        for host, of in given.items():
            both = [(host, server), *([(server, host)] if of.clients else [])]
            for trusting, shows in both if host != server else []:
                if not _will_trust(given[trusting], given[shows], shows):
                    own = {given[trusting].source, given[shows].source} == {OWN}
                    variable = "pki_ca_trusted_generations" if own else "pki_ca_bundle"
                    strange.setdefault((trusting, variable), []).append(shows)
    return [
        (
            host,
            Fault(
                variable,
                f"lacks the authority of what {_listed(shows)} {'shows' if len(shows) == 1 else 'show'}, "
                "so nothing could connect",
                "use one authority for all hosts, or have each of them trusted by all",
            ),
        )
        for (host, variable), shows in strange.items()
    ]


def _will_trust(given: Given, other: Given, host: str) -> bool:
    """Whether a host trusts another one's certificate, also where authorities of the fleet's own are yet to be made."""
    if (given.source, other.source, given.directory) == (OWN, OWN, other.directory):
        return int(other.ca_generation) in given.generations
    try:
        shown = host_state(other, host)["chain"] or signer(other)
        return is_trusted(shown, bundle(given) or _known(given))
    except CertificateError:
        # Reported as what it is.
        return True


def _of_change(
    host: str, given: Given, records: Mapping[str, Record], seen: dict[tuple[str, str], bool]
) -> Iterator[Fault]:
    def trusts(chain: str, trusted: str) -> bool:
        if (chain, trusted) not in seen:
            seen[chain, trusted] = is_trusted(chain, trusted)
        return seen[chain, trusted]

    try:
        state = host_state(given, host)
    except CertificateError:
        # Reported as what it is.
        return
    shown = state["chain"] or signer(given)
    unaware = [
        name for name, record in records.items() if shown and not trusts(shown, record.bundle)
    ]
    if records and not shown:
        unaware = list(records)
    if unaware:
        own = given.source == OWN
        yield Fault(
            "pki_ca_generation" if own else "pki_ca_bundle",
            f"brings certificates that {_listed(unaware)} {'does' if len(unaware) == 1 else 'do'} not trust yet",
            (
                f"first have it trusted everywhere: pki_ca_trusted_generations: [{given.ca_generation}] with the "
                "pki_ca_generation of before, and a whole run of site.yml"
                if own
                else "first have hosts trust the new authority beside that of before: both in pki_ca_bundle, the "
                "certificates of before, and a whole run of site.yml"
            ),
        )
    trusted = state["bundle"]
    if trusted is None:
        trusted = _known(given)
    needed = [name for name, record in records.items() if not trusts(record.chain, trusted)]
    if needed:
        own = given.source == OWN
        yield Fault(
            "pki_ca_trusted_generations" if own else "pki_ca_bundle",
            f"leaves out the authority of the certificates that {_listed(needed)} still "
            f"{'shows' if len(needed) == 1 else 'show'}",
            "leave it in until a whole run of site.yml has given these hosts new ones"
            + (
                f": pki_ca_trusted_generations: {_before(given, records)}"
                if own and _before(given, records)
                else ""
            ),
        )


def _known(given: Given) -> str:
    """What is there already of authorities of which one is yet to be made."""
    own = [_read(authority_certificate(given.directory, number)) for number in given.generations]
    return joined(*own, given.ca_bundle)


def _before(given: Given, records: Mapping[str, Record]) -> list[int]:
    """The own authorities, other than the one that signs, by which certificates in use were signed."""
    chains = {record.chain for record in records.values()}
    found = []
    for path in sorted(Path(given.directory).glob("ca*.crt")):
        suffix = path.stem.removeprefix("ca").removeprefix("-")
        number = int(suffix) if suffix.isdigit() else 1
        if number != int(given.ca_generation) and any(
            is_trusted(chain, _read(path)) for chain in chains
        ):
            found.append(number)
    return sorted(found)


def _listed(hosts: Sequence[str], most: int = 3) -> str:
    if len(hosts) > most:
        return f"{', '.join(hosts[:most])} and {len(hosts) - most} more hosts"
    return ", ".join(hosts)


# --- what ends soon -------------------------------------------------------------------------------------


def ending(given: Given, host: str, days: float, now: datetime | None = None) -> Iterator[Fault]:
    """Authorities in use that end within so many days, and a certificate from outside that does."""
    now = now or datetime.now(UTC)

    def soon(item: Certificate) -> str:
        left = item.not_valid_after_utc - now
        if not timedelta(0) < left <= timedelta(days=days):
            return ""
        return f"ends on {item.not_valid_after_utc:%Y-%m-%d}, in {left.days} days"

    try:
        state = host_state(given, host)
        chain = certificates(state["chain"] or signer(given))
        way = chain_to(chain, certificates(state["bundle"] or "")) or chain
    except CertificateError:
        return
    for item in way:
        when = soon(item)
        if not when:
            continue
        if is_authority(item):
            variable = "pki_ca_generation" if given.source == OWN else "pki_ca_bundle"
            if given.source == INTERMEDIATE and item in certificates(given.ca_certificate):
                variable = "pki_ca_certificate"
            remedy = "replace it in time, in the three steps of docs/certificates.md"
            yield Fault(variable, f"uses the authority {title(item)}, which {when}", remedy)
        elif given.source == EXTERNAL and item == chain[0]:
            left = item.not_valid_after_utc - now
            if left <= timedelta(days=given.renew_before_days):
                yield Fault("pki_certificate", when, "have it renewed, and run site.yml")
