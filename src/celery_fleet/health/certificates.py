"""Check how long certificates are valid."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from celery_fleet.health.result import BAD, Finding
from celery_fleet.health.setup import CheckError, Setup
from celery_fleet.health.text import combined

_ASK = ("openssl", "x509", "-noout", "-enddate", "-subject", "-issuer", "-nameopt", "RFC2253")


def certificates(setup: Setup, now: datetime | None = None) -> Finding:
    """Check how many days the certificates of this host and of its authority are still valid."""
    parts, value, words = [], {}, []
    found = {path: validities(path) for path in setup.certificates}
    for path, ends in ends_of(found).items():
        days = (ends - (now or datetime.now(UTC))).total_seconds() / 86400
        value[path] = {"days": round(days, 1), "until": ends.isoformat()}
        name = os.path.basename(path)
        text = (
            f"{name} is valid for {days:.0f} days"
            if days > 0
            else f"{name} expired {ends:%Y-%m-%d}"
        )
        parts.append((setup.judge("certificate_days", days) if days > 0 else BAD, text))
        words.append(text)
    return combined(parts, ", ".join(words), value)


@dataclass(frozen=True)
class Validity:
    """When a certificate ends, with its subject and its issuer as OpenSSL prints them."""

    until: datetime
    subject: str
    issuer: str


def ends_of(found: Mapping[str, Sequence[Validity]]) -> dict[str, datetime]:
    """Return when each file ends: with the first of its certificates that ends and is in use.

    While a new authority replaces an old one, hosts trust both. Only the one above the host's certificate counts. If
    that is not known, the last one to end counts.
    """
    used = {
        item.issuer for items in found.values() for item in items if item.subject != item.issuer
    }
    ends = {}
    for path, items in found.items():
        counted = [item for item in items if item.subject != item.issuer or item.subject in used]
        ends[path] = (
            min(item.until for item in counted) if counted else max(item.until for item in items)
        )
    return ends


def validities(path: str) -> list[Validity]:
    """Return when each certificate of a file in PEM form ends.

    Raises:
        CheckError: The file has no certificate, or a broken one.
        OSError, ValueError: It can't be read.
    """
    pem = Path(path).read_text(encoding="utf-8")
    # `openssl x509` reads only the first one of a text.
    found = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    if not found:
        raise CheckError(f"{path} is not a certificate in PEM form; run site.yml")
    return [_validity(path, text) for text in found]


def _validity(path: str, pem: str) -> Validity:
    try:
        done = subprocess.run(
            _ASK, input=pem, capture_output=True, text=True, check=True, timeout=4
        )
        said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
        until = datetime.fromtimestamp(ssl.cert_time_to_seconds(said["notAfter"]), UTC)
        return Validity(until, said["subject"], said["issuer"])
    except subprocess.CalledProcessError as error:
        raise CheckError(
            f"{path} is not a certificate ({error.stderr.splitlines()[0]}); run site.yml"
        ) from None
