"""Check how long certificates are valid."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from celery_fleet.health.result import BAD, Finding
from celery_fleet.health.setup import CheckError, Setup
from celery_fleet.health.text import combined


def certificates(setup: Setup, now: datetime | None = None) -> Finding:
    """Days that the certificates of this host and of the authority are still valid."""
    parts, value, words = [], {}, []
    found = {
        path: validities(Path(path).read_text(encoding="ascii")) for path in setup.certificates
    }
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
    """When a certificate ends, and whose it is, by whom; both names as they stand there."""

    until: datetime
    subject: bytes
    issuer: bytes


def ends_of(found: Mapping[str, Sequence[Validity]]) -> dict[str, datetime]:
    """The end of each file: of its first certificate that ends and is in use.

    While one authority takes over from another hosts trust both. What counts is the one above the host's certificate;
    where that can't be told, the one that ends last.
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


def validities(pem: str) -> list[Validity]:
    """All certificates of a text in PEM form.

    Hosts need have neither the program openssl nor Python's cryptography, and the time is the fifth thing in a
    certificate (RFC 5280, 4.1), so it is read from there.

    Raises:
        CheckError: It is none.
    """
    found = re.findall("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.DOTALL)
    try:
        if not found:
            raise ValueError("no PEM")
        return [_validity(base64.b64decode(text)) for text in found]
    except (ValueError, IndexError) as error:
        raise CheckError(f"this is no certificate ({error})") from None


def _validity(content: bytes) -> Validity:
    _, whole, _ = _element(content)
    _, rest, _ = _element(whole)
    tag, _, behind = _element(rest)
    # The version, which stands before the serial number where there is one.
    rest = behind if tag == 0xA0 else rest
    for _ in range(2):
        _, _, rest = _element(rest)
    _, issuer, rest = _element(rest)
    _, validity, rest = _element(rest)
    _, subject, _ = _element(rest)
    _, _, rest = _element(validity)
    tag, time_, _ = _element(rest)
    text = time_.decode("ascii")
    # Years of two digits are those from 1950 to 2049; strptime's begin with 1969.
    century = ("19" if text[:2] >= "50" else "20") if tag == 0x17 else ""
    until = datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    return Validity(until, subject, issuer)


def _element(content: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element in DER form, and what stands behind it."""
    tag, length, start = content[0], content[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(content[2:start], "big")
    if start + length > len(content):
        raise ValueError("cut short")
    return tag, content[start : start + length], content[start + length :]
