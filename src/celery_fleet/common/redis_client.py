"""As much of a Redis client as the check of health and the hand-back need: TLS, with the standard library alone.

A host of Redis has no release, and so no client of the application's; and what finds out whether Redis answers should
not depend on what else might be broken.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Self
from urllib.parse import unquote, urlsplit

#: Seconds for connecting, for the TLS handshake, and for each command.
TIMEOUT = 3.0


class RedisError(Exception):
    """What Redis answered in place of what was asked."""


class ProtocolError(RedisError):
    """What answered is no Redis."""


@dataclass(frozen=True)
class Server:
    """A Redis server and who asks it; with neither name nor password nobody logs in, without a CA there is no TLS."""

    host: str
    port: int
    ca: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    #: What is shown to it, where it asks for that.
    certificate: str | None = None
    key: str | None = None

    @property
    def address(self) -> str:
        """What people call it."""
        return f"{self.host}:{self.port}"


def server_of(url: str, tls: Mapping[str, Any] | None) -> Server:
    """The server that a URL of a component's settings names.

    Raises:
        ValueError: It is the URL of something else.
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
        certificate=str((tls or {}).get("ssl_certfile") or "") or None,
        key=str((tls or {}).get("ssl_keyfile") or "") or None,
    )


class Client:
    """One connection, closed at the end of its context."""

    #: Longer answers are none that a check asks for.
    longest: ClassVar[int] = 1 << 20
    #: What becomes of bytes that are no UTF-8, as `bytes.decode` names it.
    undecodable: ClassVar[str] = "replace"

    def __init__(
        self, server: Server, timeout: float = TIMEOUT, context: ssl.SSLContext | None = None
    ) -> None:
        """Connect and log in; ``context`` is TLS other than that of the server's CA.

        Raises:
            OSError, RedisError: It does not answer, or lets nobody in.
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
        except BaseException:
            if hasattr(self, "_stream"):
                self._stream.close()
            raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, *words: str) -> Any:
        """The answer to a command.

        Raises:
            OSError, RedisError: There is none, or it is an error.
        """
        self._socket.sendall(self._packed(words))
        return self._answer()

    def ask_all(self, commands: Iterable[Sequence[str]]) -> list[Any]:
        """The answers to commands that are sent at once; a RedisError stands for itself.

        Raises:
            OSError: They are not all there.
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
        if number > self.longest:
            raise ProtocolError(f"an answer of {number} bytes")
        content = self._stream.read(number + 2)
        if len(content) < number + 2:
            raise ConnectionError("the connection was closed")
        return content[:-2].decode(errors=self.undecodable)


def information(text: str) -> dict[str, str]:
    """The fields of an answer to INFO."""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}
