"""A small Redis client with TLS for the health checks and the hand-back; standard library only.

A Redis host has no release and therefore no client library. Also, the check that Redis answers should not depend on
parts that may themselves be broken.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, ClassVar, Self
from urllib.parse import unquote, urlsplit

#: Seconds for connecting, for the TLS handshake, and for each command.
TIMEOUT = 3.0

#: The same for a Sentinel. The next one is asked after that, so a host that is down costs little.
SENTINEL_TIMEOUT = 1.0
SENTINEL_PORT = 26379

#: Errors that Redis soon stops giving. Before version 7 it wraps that of a script's command in an error of the script.
_TEMPORARY = re.compile(
    r"(ERR Error running script .* -)?(LOADING|BUSY|MASTERDOWN|TRYAGAIN|READONLY|NOREPLICAS)\b"
)


class ClientError(Exception):
    """An error that Redis returned."""

    @property
    def temporary(self) -> bool:
        """Whether Redis soon stops giving it."""
        return _TEMPORARY.match(str(self)) is not None


class ProtocolError(ClientError):
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
    #: The Sentinels that know the server's address, if it is a primary that may move. Then ``host`` is the primary's
    #: name there, and ``port`` is 0.
    sentinels: tuple[Server, ...] = ()

    @property
    def address(self) -> str:
        """Return ``host:port`` for messages, or the name of a primary that Sentinels know."""
        return self.host if self.sentinels else f"{self.host}:{self.port}"


def server_of(
    url: str, tls: Mapping[str, Any] | None, options: Mapping[str, Any] | None = None
) -> Server:
    """Return the server that a URL in a component's settings names.

    Args:
        url: One address, or those of several Sentinels (``sentinel://…;sentinel://…``).
        tls: The TLS options that belong to it, such as ``broker_use_ssl``.
        options: The transport options that belong to it; only needed for Sentinels.

    Raises:
        ValueError: The URL is not a Redis URL.
    """
    if url.startswith("sentinel://"):
        return _primary_of(url, tls or {}, options or {})
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(f"{parts.scheme or 'it'} is not a Redis URL")
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


def _primary_of(url: str, tls: Mapping[str, Any], options: Mapping[str, Any]) -> Server:
    """Return the primary that Sentinels know; its login is in their URL, theirs is in `sentinel_kwargs`."""
    parts = [urlsplit(one) for one in url.split(";")]
    name = options.get("master_name")
    if not name or any(one.scheme != "sentinel" or not one.hostname for one in parts):
        raise ValueError("it is not a list of Sentinels with a master_name")
    known = options.get("sentinel_kwargs") or {}

    first = parts[0]
    return Server(
        host=str(name),
        port=0,
        user=unquote(first.username) if first.username else None,
        password=unquote(first.password) if first.password else None,
        database=int(first.path.strip("/") or 0),
        sentinels=tuple(
            Server(
                host=str(one.hostname),
                port=one.port or SENTINEL_PORT,
                user=known.get("username"),
                password=known.get("password"),
                ca=(known.get("ssl_ca_certs") or None) if known.get("ssl") else None,
            )
            for one in parts
        ),
        ca=tls.get("ssl_ca_certs") or None,
        certificate=tls.get("ssl_certfile") or None,
        key=tls.get("ssl_keyfile") or None,
    )


class Client:
    """A connection to Redis, closed at the end of its context."""

    #: Largest accepted answer in bytes or elements; no check needs more.
    longest: ClassVar[int] = 1 << 20
    #: How to handle bytes that are not UTF-8: the ``errors`` argument of `bytes.decode`.
    undecodable: ClassVar[str] = "replace"
    #: The server that it is connected to; the primary's, if Sentinels were asked.
    server: Server

    def __init__(
        self, server: Server, timeout: float = TIMEOUT, context: ssl.SSLContext | None = None
    ) -> None:
        """Connect and log in.

        Args:
            server: address, CA and login.
            timeout: seconds for connecting, for the TLS handshake, and for each command.
            context: TLS settings to use instead of the server's CA, also for its Sentinels.

        Raises:
            OSError, ClientError: The server does not answer or refuses the login, or no Sentinel knows a primary.
        """
        if not server.sentinels:
            self._open(server, timeout, context)
            return
        trouble: Exception | None = None
        for one in primaries(server, context):
            try:
                self._open(one, timeout, context)
            except (OSError, ClientError) as error:
                trouble = error
                continue
            if self._is_primary():
                return
            self.__exit__()
            trouble = ConnectionError(f"{one.address} is not the primary")
        raise trouble or ConnectionError(f"no Sentinel knows the primary {server.host}")

    def _is_primary(self) -> bool:
        # Unlike ROLE, HELLO needs no right.
        answer = self.ask("HELLO", "2")
        return dict(zip(answer[::2], answer[1::2], strict=True)).get("role") == "master"

    def _open(self, server: Server, timeout: float, context: ssl.SSLContext | None) -> None:
        raw = socket.create_connection((server.host, server.port), timeout)
        try:
            if context is None and server.ca is not None:
                context = ssl.create_default_context(cafile=server.ca)
                if server.certificate is not None:
                    context.load_cert_chain(server.certificate, server.key)
            if context is not None:
                secured = raw = context.wrap_socket(
                    raw, server_hostname=server.host, do_handshake_on_connect=False
                )
                # It is its own step, so that any exception in it, such as that of a time limit, closes the socket.
                secured.do_handshake()
            self.server = server
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
            OSError, ClientError: There is no answer, or it is an error.
        """
        self._socket.sendall(self._packed(words))
        return self._answer()

    def ask_all(self, commands: Iterable[Sequence[str]]) -> list[Any]:
        """Send several commands at once and return their answers; an error is returned as a ClientError.

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
            except ClientError as error:
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
            raise ProtocolError("the server that answers is not Redis")
        kind, rest = line[:1], line[1:-2].decode(errors="replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise ClientError(rest)
        if kind not in b":$*" or not rest.removeprefix("-").isdigit():
            raise ProtocolError("the server that answers is not Redis")
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


def primaries(server: Server, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Ask a server's Sentinels, in their order, for the primary's address; yield each different answer.

    Sentinels may disagree for some seconds, so the caller has to check whether the server is a primary.

    Args:
        server: One with `sentinels`.
        context: TLS settings to use instead of the Sentinels' CA.

    Raises:
        ConnectionError: None of the Sentinels has answered.
    """
    found: set[tuple[str, int]] = set()
    troubles = []
    for sentinel in server.sentinels:
        try:
            # Connect without TLS if the Sentinels have none, even if Redis itself has.
            own = context if sentinel.ca else None
            with Client(sentinel, SENTINEL_TIMEOUT, own) as client:
                answer = client.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", server.host)
        except (OSError, ClientError) as error:
            troubles.append(f"Sentinel {sentinel.address}: {error}")
            continue
        if answer is None:
            troubles.append(f"Sentinel {sentinel.address} does not know {server.host}")
            continue
        address = str(answer[0]), int(answer[1])
        if address not in found:
            found.add(address)
            yield replace(server, host=address[0], port=address[1], sentinels=())
    if not found:
        raise ConnectionError("; ".join(troubles))


def usable_sentinels(server: Server) -> tuple[int, bool]:
    """Ask the first Sentinel that answers how many of them it reaches, and whether these could replace the primary.

    Args:
        server: One with `sentinels`.

    Raises:
        ConnectionError: None of the Sentinels has answered.
        ClientError: The login may not ask for this.
    """
    for sentinel in server.sentinels:
        with contextlib.suppress(OSError), Client(sentinel, SENTINEL_TIMEOUT) as client:
            try:
                words, enough = str(client.ask("SENTINEL", "CKQUORUM", server.host)), True
            except ClientError as error:
                if not str(error).startswith("NOQUORUM "):
                    raise
                words, enough = str(error), False
            return int(words.split()[1]), enough
    raise ConnectionError("no Sentinel answers")


def information(text: str) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}
