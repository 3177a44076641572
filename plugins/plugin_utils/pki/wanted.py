"""Compute the certificate, key and authorities that a host should have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm

from .chain import certificate_serves
from .x509 import alternative_name, certificates, pem, read_text

OWN, INTERMEDIATE, EXTERNAL = "own", "intermediate", "external"
MUTUAL = "mutual"
# Certificates are valid for this long before they are made (`ownca_not_before`).
BACKDATED = timedelta(hours=1)


def authority_certificate(directory: str, generation: int) -> Path:
    """Return the path of the certificate of one of the fleet's own authorities."""
    return Path(directory, "ca.crt" if generation == 1 else f"ca-{generation}.crt")


def authority_key(directory: str, generation: int) -> Path:
    """Return the path of its encrypted key."""
    return authority_certificate(directory, generation).with_suffix(".key")


@dataclass(frozen=True)
class PkiVariables:
    """What the inventory says about a host's certificate: the variables with these names and the prefix `pki_`."""

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
    client_certificate: str = ""
    client_key: str = field(default="", repr=False)
    renew_before_days: float = 30
    #: YAML reads a date without quotes as a date.
    renew_older_than: str | date = ""

    @property
    def generations(self) -> list[int]:
        """The numbers of the own authorities that hosts trust; the one that signs comes first."""
        return list(
            dict.fromkeys((int(self.ca_generation), *map(int, self.ca_trusted_generations)))
        )

    @property
    def clients(self) -> bool:
        """Whether clients show a certificate, too."""
        return self.mode == MUTUAL


def moment(text: str) -> datetime:
    """Return the time that `pki_renew_older_than` names, in UTC if it does not say otherwise.

    Raises:
        ValueError: It is no time.
    """
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def joined(*texts: str) -> str:
    """Join texts in PEM form; each gets a line break at its end."""
    return "".join(f"{text.strip()}\n" for text in texts if text and text.strip())


def signer(given: PkiVariables) -> str:
    """Return the certificate that signs for hosts, and those above it; empty if it does not exist yet."""
    if given.source == OWN:
        return read_text(authority_certificate(given.directory, int(given.ca_generation)))
    return joined(given.ca_certificate, given.chain)


def bundle(given: PkiVariables) -> str:
    """Return the authorities that hosts should trust; empty if one of them does not exist yet."""
    if given.source != OWN:
        return pem(certificates(given.ca_bundle))
    own = [
        read_text(authority_certificate(given.directory, number)) for number in given.generations
    ]
    if not all(own):
        return ""
    return pem(certificates(joined(*own, given.ca_bundle)))


def client_pair(given: PkiVariables) -> tuple[str, str]:
    """Return the certificate and the key from outside that clients show: the host's, if there are no others."""
    return given.client_certificate or given.certificate, given.client_key or given.key


def certificate_path(directory: str, host: str, client: bool = False) -> Path:
    """Return the path of the certificate that is made for a host or, with `client`, for its clients of Redis."""
    return Path(directory, "clients" if client else "hosts", f"{host}.crt")


def host_state(given: PkiVariables, host: str) -> dict[str, Any]:
    """Return what a host should have.

    `bundle` has the authorities that it trusts; `chain` and `key` are for what it serves, `client_chain` and
    `client_key` for its clients of Redis, which are empty if clients show no certificate. What does not exist yet is
    None.

    `issue` has the certificates that have to be made. Each has a `path` without its suffix, `names`, `usages`, and
    `rotate`, which says whether its key has to be made as well.

    Raises:
        CertificateError: A file of the control node is broken.
    """
    served = _pair(given, host)
    shown = _pair(given, host, client=True) if given.clients else _Pair("", "")
    return {
        "bundle": bundle(given) or None,
        "chain": served.chain,
        "key": served.key,
        "client_chain": shown.chain,
        "client_key": shown.key,
        "issue": [pair.issue for pair in (served, shown) if pair.issue],
    }


class _Pair(NamedTuple):
    """A certificate with its chain, its key, and how to make it if it has to be made."""

    chain: str | None
    key: str | None
    issue: dict[str, Any] | None = None


def _pair(given: PkiVariables, host: str, client: bool = False) -> _Pair:
    """Return what a host serves with or, with `client`, what its clients show."""
    if given.source == EXTERNAL:
        certificate, key = client_pair(given) if client else (given.certificate, given.key)
        return _Pair(pem(certificates(joined(certificate, given.chain))), joined(key))
    path = certificate_path(given.directory, host, client)
    text, own_key, above = read_text(path), read_text(path.with_suffix(".key")), signer(given)
    # A client's certificate needs no names, because nothing connects to it. A host's is also for clients, because Redis
    # shows it when it connects to another instance.
    names = [] if client else [alternative_name(name) for name in given.names]
    usages = (
        ["clientAuth"] if client else ["serverAuth", *(["clientAuth"] if given.clients else [])]
    )
    rotate = False
    try:
        rotate = bool(text and given.renew_older_than) and (
            certificates(text)[0].not_valid_before_utc + BACKDATED
            < moment(str(given.renew_older_than))
        )
        good = bool(text and own_key and above) and certificate_serves(
            text, names, above, given.renew_before_days, own_key, given.clients
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # A broken file, or a key that was encrypted by hand, is of no use and gets replaced.
        good = False
    if good and not rotate:
        return _Pair(pem(certificates(joined(text, above))), own_key)
    issue = {"path": str(path.with_suffix("")), "names": names, "usages": usages, "rotate": rotate}
    return _Pair(None, None if rotate else own_key or None, issue)
