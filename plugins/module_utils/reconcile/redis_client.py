"""A small Redis client over TLS: commands are lists of words, answers are RESP3.

Runs on the host, inside modules, as root: the host's Python has no Redis package.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import BinaryIO

from .desired_state import RedisAccess

# Seconds to connect, and to wait for the answer to each command.
_PATIENCE = 20.0


class RedisError(Exception):
    """A server refused a change or did not answer. The message contains no secret."""


Command = Sequence[str]
# Sends commands and returns their answers.
Talk = Callable[[RedisAccess, Sequence[Command]], list[object]]


def redacted(text: str) -> str:
    """Return a server's message without passwords and hashes, which it repeats when it refuses them."""
    return re.sub(r"(?<![\w-])[><#!][^\s'\"]+", "<secret>", text)


class RedisRefusedError(RedisError):
    """The server answered with an error."""


class RedisUntrustedError(RedisError):
    """The server shows a certificate that is not valid for the CA."""


def talk(access: RedisAccess, commands: Sequence[Command]) -> list[object]:
    """Send commands over TLS. Unlike redis-cli, this checks the server's name in its certificate.

    Raises:
        RedisError: The server can't be reached or verified (then a `RedisUntrustedError`), or it refuses the login or a
            command.
    """
    where = f"Redis at {access.host}:{access.port}, user {access.user}"
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.certificate:
            context.load_cert_chain(access.certificate, access.key)
        with (
            socket.create_connection((access.host, access.port), _PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=access.host) as connection,
            connection.makefile("rb") as stream,
        ):
            answers = []
            login = ["HELLO", "3", "AUTH", access.user, access.password]
            for command in (login, *commands):
                connection.sendall(_packed(command))
                try:
                    answers.append(_answer(stream))
                except RedisRefusedError as error:
                    did = "AUTH failed" if command is login else f"it refused {_what(command)}"
                    raise RedisError(f"{where}: {did}: {redacted(str(error))}") from None
                except (RedisError, ValueError):
                    raise RedisError(f"{where}: it gave no answer to {_what(command)}") from None
            return answers[1:]
    except ssl.SSLCertVerificationError as error:
        raise RedisUntrustedError(f"{where}: {error}") from None
    except TimeoutError:
        raise RedisError(f"{where}: it did not answer within {_PATIENCE:.0f} s") from None
    except OSError as error:
        raise RedisError(f"{where}: {error}") from None


def _what(command: Command) -> str:
    return " ".join(command[:2])


def _packed(command: Command) -> bytes:
    words = [word.encode(errors="surrogateescape") for word in command]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join([b"*%d\r\n" % len(words), *parts])


def _answer(stream: BinaryIO) -> object:
    """Read one RESP3 answer, of the types that our commands return.

    Raises:
        RedisError: It is an error (then a `RedisRefusedError`), or of another type.
    """
    line = stream.readline()
    kind, rest = line[:1], line[1:].rstrip(b"\r\n").decode(errors="surrogateescape")
    if not line.endswith(b"\r\n"):
        raise RedisError("no answer")
    if kind == b"-":
        raise RedisRefusedError(rest)
    if kind == b"_":
        return None
    if kind in b"+,":
        return rest if kind == b"+" else float(rest)
    if kind == b":":
        return int(rest)
    if kind not in b"$=*~%" or not rest.isdigit():
        raise RedisError("no answer of Redis")
    number = int(rest)
    if kind in b"*~":
        return [_answer(stream) for _ in range(number)]
    if kind == b"%":
        return {str(_answer(stream)): _answer(stream) for _ in range(number)}
    content = stream.read(number + 2)
    if len(content) < number + 2:
        raise RedisError("half an answer")
    text = content[:-2].decode(errors="surrogateescape")
    # A verbatim string begins with its format.
    return text[4:] if kind == b"=" else text
