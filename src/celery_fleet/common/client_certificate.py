"""The client certificate and key that a process presents to Redis if ``pki_mode`` is ``mutual``.

The settings name the host's own files in ``broker_use_ssl`` and ``redis_backend_use_ssl``. Only root can read them.
A process of the fleet gets both as systemd credentials with the same file names. A program that root runs in the
release's Python as the application's user has no credentials, so root sends it the files' content instead of their
paths. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

TLS_SETTINGS = ("broker_use_ssl", "redis_backend_use_ssl")
#: The TLS options that name a client's file.
OPTIONS = ("ssl_certfile", "ssl_keyfile")
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_PEM = "-----BEGIN "


def files(settings: Mapping[str, Any]) -> list[Path]:
    """Return the client certificate and key files that a settings document names."""
    celery: Any = settings.get("celery")
    found: dict[Path, None] = {}
    for name in TLS_SETTINGS if isinstance(celery, Mapping) else ():
        options = celery.get(name)
        for option in OPTIONS if isinstance(options, Mapping) else ():
            value = options.get(option)
            if isinstance(value, str) and value.startswith("/"):
                found[Path(value)] = None
    return list(found)


def carried(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a settings document with the files' content instead of their paths, for a process that can't read them.

    Raises:
        OSError: A file can't be read here either.
    """
    texts = {str(path): path.read_text(encoding="ascii") for path in files(settings)}
    result = dict(settings)
    if texts:
        result["celery"] = {
            name: {
                option: texts.get(str(value), value) if option in OPTIONS else value
                for option, value in options.items()
            }
            if name in TLS_SETTINGS and isinstance(options, Mapping)
            else options
            for name, options in settings["celery"].items()
        }
    return result


def resolved(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return TLS options with paths that this process can read: its credentials, or sent content in memory."""
    result = dict(options)
    directory = environ.get(CREDENTIALS_VARIABLE)
    for option in OPTIONS:
        value = result.get(option)
        if not isinstance(value, str):
            continue
        if value.startswith(_PEM):
            result[option] = _in_memory(value)
        elif directory and value.startswith("/"):
            credential = os.path.join(directory, os.path.basename(value))
            if os.path.exists(credential):
                result[option] = credential
    return result


@lru_cache(maxsize=8)
def _in_memory(text: str) -> str:
    """Return a path at which only this process can read the text; OpenSSL accepts only files."""
    handle = os.memfd_create("celery_fleet_client")
    os.write(handle, text.encode())
    return f"/proc/self/fd/{handle}"
