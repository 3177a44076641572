"""Connections to the fleet's Redis trust the fleet's authorities, and not the system's as well."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from redis.connection import SSLConnection

from celery_fleet.compat import redis_tls
from tests.support.certificates import Authority


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the connections that redis-py's own method wraps; no handshake takes place."""
    found: list[Any] = []
    # Puts redis-py's own method back at the end.
    own = SSLConnection._wrap_socket_with_ssl
    monkeypatch.setattr(SSLConnection, "_wrap_socket_with_ssl", own)
    monkeypatch.setattr(redis_tls, "_stock", lambda one, _: found.append(one))
    monkeypatch.setattr(redis_tls, "_ours", set())
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", lambda context, _, **more: (context, more))
    return found


def test_only_the_named_authority_is_trusted(tmp_path: Path, stock: list[Any]) -> None:
    authority = Authority("fleet")
    authority.install(tmp_path, "DNS:redis1")
    ours = str(tmp_path / "ca.crt")
    # A process may have several applications; one without such a file changes nothing.
    for tls in (None, {"ssl_ca_certs": ours}, {}):
        redis_tls.install({"broker_use_ssl": tls})
    client = {"ssl_certfile": f"{tmp_path}/host.crt", "ssl_keyfile": f"{tmp_path}/host.key"}
    with socket.socket() as sock:
        for more in ({}, client):
            one = SSLConnection(host="redis1", ssl_ca_certs=ours, **more)
            context, given = one._wrap_socket_with_ssl(sock)
            assert len(context.get_ca_certs()) == 1
            assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
            assert given == {"server_hostname": "redis1"}
        assert stock == []
        # The application's own connections are not ours to change, nor are options that we don't know.
        theirs = [
            SSLConnection(host="redis1"),
            SSLConnection(host="redis1", ssl_ca_certs="/etc/other.crt"),
            SSLConnection(host="redis1", ssl_ca_certs=ours, ssl_ciphers="HIGH"),
        ]
        for one in theirs:
            one._wrap_socket_with_ssl(sock)
        assert stock == theirs
