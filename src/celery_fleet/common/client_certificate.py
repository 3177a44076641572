"""The certificate and key that a process shows to Redis, where ``pki_mode: mutual`` has it ask for them.

Settings name the host's own, in ``broker_use_ssl`` and ``redis_backend_use_ssl``, which root alone can read. A
process of the fleet has both by credential, under the files' names. Whoever asks for root, in the release's Python
and as the application's user, has no credentials: root sends it their text in place of the paths. Standard library
alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

TLS_SETTINGS = ("broker_use_ssl", "redis_backend_use_ssl")
#: The options that name a file of the client's own.
OPTIONS = ("ssl_certfile", "ssl_keyfile")
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_PEM = "-----BEGIN "


def files(settings: Mapping[str, Any]) -> list[Path]:
    """The files of a settings document that its process shows, or proves itself by."""
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
    """A settings document with the files' text in place of their paths, for a process that can't read them.

    Raises:
        OSError: One of them can't be read here either.
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
    """Options of TLS with paths that this process can read: its credentials, or what was sent, in its own memory."""
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
    """A path at which this process, and nobody else, can read the text: OpenSSL takes files alone."""
    handle = os.memfd_create("celery_fleet_client")
    os.write(handle, text.encode())
    return f"/proc/self/fd/{handle}"
