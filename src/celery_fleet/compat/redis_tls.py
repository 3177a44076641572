"""Let connections to the fleet's Redis trust only the authorities that they name (redis/connection.py of redis-py).

redis-py also trusts all authorities of the system. To load these takes some 50 ms of processor time for each
connection, of which a process makes several when it starts and when another host becomes the primary. Then all workers
of a host do that at once.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from redis import connection

from celery_fleet.common.client_certificate import TLS_SETTINGS

_Connection: Any = connection.SSLConnection

#: Options of a connection that only redis-py's own method knows. The fleet's settings have none of them.
_OTHERS = (
    "ca_path",
    "ca_data",
    "ssl_min_version",
    "ssl_ciphers",
    "ssl_validate_ocsp",
    "ssl_validate_ocsp_stapled",
    "ssl_include_verify_flags",
    "ssl_exclude_verify_flags",
)

#: Before redis-py 5.1 a longer method has this as a part.
_stock: Any = getattr(_Connection, "_wrap_socket_with_ssl", None)

#: Files of authorities of this process's applications.
_ours: set[str] = set()


def install(settings: Mapping[str, Any]) -> None:
    """Change connections with the authorities of these settings of Celery; all others stay as they are."""
    for name in TLS_SETTINGS:
        authorities = (settings.get(name) or {}).get("ssl_ca_certs")
        if authorities:
            _ours.add(str(authorities))
    if _stock is not None:
        _Connection._wrap_socket_with_ssl = _wrap  # noqa: SLF001  # the smallest part that chooses the authorities


def _wrap(one: Any, sock: socket.socket) -> ssl.SSLSocket:
    if one.ca_certs not in _ours or any(getattr(one, name, None) for name in _OTHERS):
        found: ssl.SSLSocket = _stock(one, sock)
        return found
    context = ssl.create_default_context(cafile=one.ca_certs)
    context.check_hostname = one.check_hostname
    context.verify_mode = one.cert_reqs
    if one.certfile:
        context.load_cert_chain(one.certfile, one.keyfile, one.certificate_password)
    return context.wrap_socket(sock, server_hostname=one.host)
