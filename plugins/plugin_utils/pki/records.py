"""Records of the certificates that each host had after the last complete run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .wanted import authority_certificate, certificate_path
from .x509 import CertificateError, read_text

FORMAT = 1


@dataclass(frozen=True)
class CertificateRecord:
    """What a host had at the end of the last complete run.

    Attributes:
        bundle: The authorities that it trusts.
        chain: Its certificate, and then those of the authorities above it.
        clients: Whether all its processes show a certificate to Redis.
        client_chain: That certificate with its chain. Empty if there is none, or if it is the one in `chain`, as in
            records of older versions.
    """

    bundle: str
    chain: str
    clients: bool = False
    client_chain: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The certificates that it shows to others, with their chains."""
        return (self.chain, self.client_chain) if self.client_chain else (self.chain,)


def record_path(directory: str, host: str) -> Path:
    """Return the path of a host's record."""
    return Path(directory, "hosts", f"{host}.json")


def record_text(state: Mapping[str, Any], clients: bool) -> str:
    """Return the content of a record's file, from what `wanted.host_state` returns; "" while something is missing."""
    parts = {name: state[name] for name in ("bundle", "chain", "client_chain")}
    if None in parts.values():
        return ""
    content = {"format": FORMAT, **parts, "clients": bool(clients)}
    if not parts["client_chain"]:
        del content["client_chain"]
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_record(directory: str, host: str) -> CertificateRecord | None:
    """Read a host's record. Without one, the files that were made for the host count: older versions wrote no records.

    Raises:
        CertificateError: The file can't be read.
    """
    path = record_path(directory, host)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError
        return CertificateRecord(
            str(content["bundle"]),
            str(content["chain"]),
            content["clients"] is True,
            str(content.get("client_chain", "")),
        )
    except FileNotFoundError:
        return _record_from_files(directory, host)
    except (OSError, ValueError, LookupError, TypeError):
        raise CertificateError(f"can't be read: {path}") from None


def _record_from_files(directory: str, host: str) -> CertificateRecord | None:
    authority = read_text(authority_certificate(directory, 1))
    certificate = read_text(certificate_path(directory, host))
    if not authority or not certificate:
        return None
    return CertificateRecord(authority, certificate + authority)


def everybody_shows_one(directory: str, hosts: Iterable[str]) -> bool:
    """Return whether the processes of all these hosts show a certificate to Redis."""
    records = [read_record(directory, host) for host in hosts]
    return bool(records) and all(record is not None and record.clients for record in records)
