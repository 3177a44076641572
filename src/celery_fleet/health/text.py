"""Text of findings."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

from celery_fleet.common.redis_client import ClientError
from celery_fleet.health.result import GOOD, Finding, worst
from celery_fleet.health.setup import CheckError


def reason(error: Exception) -> str:
    """Describe an exception in one line."""
    words = " ".join(str(error).split())
    if isinstance(error, TimeoutError):
        # The text of the exception names a line of OpenSSL's source.
        return "no answer: the time ran out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, (CheckError, ClientError, OSError)) and words:
        return words
    return ": ".join(part for part in (type(error).__name__, words) if part)


def combined(parts: Iterable[tuple[str, str]], well: str, value: Any = None) -> Finding:
    """Combine several states into one finding, with the texts of those that are not good, or ``well`` if all are."""
    found = list(parts)
    words = [text for state, text in found if state != GOOD]
    return Finding(worst(state for state, _ in found), "; ".join(words) or well, value)
