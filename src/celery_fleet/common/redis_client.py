"""A small Redis client with TLS for the health checks and the hand-back; standard library only.

A Redis host has no release and therefore no client library. Also, the check that Redis answers should not depend on
parts that may themselves be broken.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Self
from urllib.parse import unquote, urlsplit

#: Seconds for connecting, for the TLS handshake, and for each command.
TIMEOUT = 3.0


class RedisError(Exception):
    """An error that Redis returned."""


class ProtocolError(RedisError):
    """The answer does not come from Redis."""


@dataclass(frozen=True)
class Server:
    """A Redis server and the login; without user and password there is no login, without a CA no TLS."""

    host: str
    port: int
    ca: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    #: Client certificate and key files, for a server that asks for them.
    certificate: str | None = None
    key: str | None = None

    @property
    def address(self) -> str:
        """Return ``host:port`` for messages."""
        return f"{self.host}:{self.port}"


def server_of(url: str, tls: Mapping[str, Any] | None) -> Server:
    """Return the server that a URL in a component's settings names.

    Raises:
        ValueError: The URL is not a Redis URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(f"{parts.scheme or 'it'} is no address of Redis")
    ca = str((tls or {}).get("ssl_ca_certs") or "") or None
    return Server(
        host=parts.hostname,
        port=parts.port or 6379,
        ca=ca if parts.scheme == "rediss" else None,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=int(parts.path.strip("/") or 0),
        certificate=str((tls or {}).get("ssl_certfile") or "") or None,
        key=str((tls or {}).get("ssl_keyfile") or "") or None,
    )


class Client:
    """A connection to Redis, closed at the end of its context."""

    #: Largest accepted answer in bytes or elements; no check needs more.
    longest: ClassVar[int] = 1 << 20
    #: How to handle bytes that are not UTF-8: the ``errors`` argument of `bytes.decode`.
    undecodable: ClassVar[str] = "replace"

    def __init__(
        self, server: Server, timeout: float = TIMEOUT, context: ssl.SSLContext | None = None
    ) -> None:
        """Connect and log in.

        Args:
            server: address, CA and login.
            timeout: seconds for connecting, for the TLS handshake, and for each command.
            context: TLS settings to use instead of the server's CA.

        Raises:
            OSError, RedisError: The server does not answer or refuses the login.
        """
        raw = socket.create_connection((server.host, server.port), timeout)
        try:
            if context is None and server.ca is not None:
                context = ssl.create_default_context(cafile=server.ca)
                if server.certificate is not None:
                    context.load_cert_chain(server.certificate, server.key)
            if context is not None:
                raw = context.wrap_socket(raw, server_hostname=server.host)
            self._socket = raw
            self._stream: BinaryIO = raw.makefile("rb")
            if server.user is not None:
                self.ask("AUTH", server.user, server.password or "")
            elif server.password is not None:
                self.ask("AUTH", server.password)
            if server.database:
                self.ask("SELECT", str(server.database))
        except BaseException:
            if hasattr(self, "_stream"):
                self._stream.close()
            raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, *words: str) -> Any:
        """Send a command and return its answer.

        Raises:
            OSError, RedisError: There is no answer, or it is an error.
        """
        self._socket.sendall(self._packed(words))
        return self._answer()

    def ask_all(self, commands: Iterable[Sequence[str]]) -> list[Any]:
        """Send several commands at once and return their answers; an error is returned as a RedisError.

        Raises:
            OSError: Some answers are missing.
        """
        packed = [self._packed(words) for words in commands]
        self._socket.sendall(b"".join(packed))
        answers: list[Any] = []
        for _ in packed:
            try:
                answers.append(self._answer())
            except ProtocolError:
                raise
            except RedisError as error:
                answers.append(error)
        return answers

    def _packed(self, words: Sequence[str]) -> bytes:
        encoded = [word.encode(errors=self.undecodable) for word in words]
        parts = [b"*%d\r\n" % len(encoded)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        return b"".join(parts)

    def _answer(self) -> Any:
        line = self._stream.readline(self.longest)
        if not line.endswith(b"\r\n"):
            if not line:
                raise ConnectionError("the connection was closed")
            raise ProtocolError("what answers is no Redis")
        kind, rest = line[:1], line[1:-2].decode(errors="replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RedisError(rest)
        if kind not in b":$*" or not rest.removeprefix("-").isdigit():
            raise ProtocolError("what answers is no Redis")
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self._answer() for _ in range(min(number, self.longest))]
        return self._text(number).decode(errors=self.undecodable)

    def _text(self, size: int) -> bytes:
        """Read a text of this many bytes, and the line end after it."""
        if size > self.longest:
            raise ProtocolError(f"an answer of {size} bytes")
        return self._read(size + 2)[:-2]

    def _read(self, size: int) -> bytes:
        content = self._stream.read(size)
        if len(content) < size:
            raise ConnectionError("the connection was closed")
        return content


def information(text: str) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}
