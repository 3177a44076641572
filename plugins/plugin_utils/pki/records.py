"""Records of the certificates that each host had after the last complete run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.wanted import (
    authority_certificate,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.x509 import (
    CertificateError,
    _read,
)

FORMAT = 1


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


def everybody_shows_one(directory: str, hosts: Iterable[str]) -> bool:
    """Whether the processes of all these hosts show Redis a certificate."""
    records = [read_record(directory, host) for host in hosts]
    return bool(records) and all(record is not None and record.clients for record in records)
