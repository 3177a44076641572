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


#: What to do about the web site's certificate. A run of site.yml would not help.
_RENEW = "Celery Fleet does not renew it: renew it with the program that made it, then systemctl reload nginx"
_REPLACE = "it is the web site's, and Celery Fleet does not make it: put one there, then systemctl reload nginx"


def certificates(setup: Setup, now: datetime | None = None) -> Finding:
    """Check how many days the certificates of this host, of its authority and of its web site are still valid."""
    parts, value, words = [], {}, []
    ends = ends_of({path: validities(path) for path in setup.certificates})
    site = setup.site_certificate
    try:
        ends |= ends_of({site: _of_site(site)} if site else {})
    except CheckError as error:
        parts.append((BAD, str(error)))
    for path, until in ends.items():
        days = (until - (now or datetime.now(UTC))).total_seconds() / 86400
        value[path] = {"days": round(days, 1), "until": until.isoformat()}
        name = f"the web site's {path}" if path == site else os.path.basename(path)
        text = (
            f"{name} is valid for {days:.0f} days"
            if days > 0
            else f"{name} expired {until:%Y-%m-%d}"
        )
        state = setup.state_of("certificate_days", days) if days > 0 else BAD
        parts.append((state, f"{text} ({_RENEW})" if path == site else text))
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


def _of_site(path: str) -> list[Validity]:
    """Return when each certificate of the web site's file ends.

    Raises:
        CheckError: The file can't be read, has no certificate, or a broken one.
    """
    try:
        return validities(path, _REPLACE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckError(f"{path} can't be read ({why}); {_REPLACE}") from None


def validities(path: str, remedy: str = "run site.yml") -> list[Validity]:
    """Return when each certificate of a file in PEM form ends.

    Raises:
        CheckError: The file has no certificate, or a broken one; it ends with the remedy.
        OSError, ValueError: It can't be read.
    """
    pem = Path(path).read_text(encoding="utf-8")
    # `openssl x509` reads only the first one of a text.
    found = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    if not found:
        raise CheckError(f"{path} is not a certificate in PEM form; {remedy}")
    return [_validity(path, text, remedy) for text in found]


def _validity(path: str, pem: str, remedy: str) -> Validity:
    try:
        done = subprocess.run(
            _ASK, input=pem, capture_output=True, text=True, check=True, timeout=4
        )
        said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
        until = datetime.fromtimestamp(ssl.cert_time_to_seconds(said["notAfter"]), UTC)
        return Validity(until, said["subject"], said["issuer"])
    except subprocess.CalledProcessError as error:
        raise CheckError(
            f"{path} is not a certificate ({error.stderr.splitlines()[0]}); {remedy}"
        ) from None
