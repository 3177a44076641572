"""Ask the broker and the result store for an answer, on separate connections and in bounded time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError

from celery_fleet.common import redis_client
from celery_fleet.common.errors import error_text, is_shortage
from celery_fleet.common.redact import redact
from celery_fleet.compat import broker

#: Seconds each for connecting, the TLS handshake, AUTH, and every command.
TIMEOUT = 3.0

#: Seconds after which the broker counts as not answering, wherever the probe hangs: name resolution
#: has no timeout.
DEADLINE = 8.0

#: The key that the probe prepares to write to and never does; every user of a broker may write it.
ROOM = "fleet:room"

#: A write that is queued in a transaction and discarded.
_WOULD_WRITE = (("MULTI",), ("SADD", ROOM, "1"), ("DISCARD",))


def ping(endpoint: broker.Endpoint, queueing: bool = False, timeout: float = TIMEOUT) -> None:
    """Connect to one server, authenticate and PING it; the connection is always closed.

    If Sentinels know the server, it is asked whether it is the primary, because they may not know of a new one yet.

    With ``queueing`` also queue a write in a transaction, and discard it. A full Redis (``noeviction``) answers a PING
    but refuses this write, so kombu can neither connect nor publish. (Redis 7.0 then refuses every command in a
    transaction; 8.0 and Valkey accept a PING.) A missing permission for the write counts as an answer.

    Raises:
        redis.exceptions.RedisError, OSError: if the server does not answer or refuses the connection.
    """
    if endpoint.primary is None:
        _ping(endpoint, endpoint.host, endpoint.port, queueing, timeout)
        return
    trouble: Exception | None = None
    for one in redis_client.primaries(endpoint.primary):
        try:
            _ping(endpoint, one.host, one.port, queueing, timeout)
        except (RedisError, OSError) as exc:
            trouble = exc
        else:
            return
    if trouble is not None:
        raise trouble


def _ping(endpoint: broker.Endpoint, host: str, port: int, queueing: bool, timeout: float) -> None:
    options = {"host": host, "port": port, **endpoint.options(timeout)}
    connection: redis.Connection = (
        redis.Connection(**options)
        if endpoint.tls is None
        else redis.SSLConnection(**options, **endpoint.tls)
    )
    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
        if endpoint.primary is not None:
            connection.send_command("HELLO")
            _require_primary(connection.read_response(), f"{host}:{port}")
        for command in _WOULD_WRITE if queueing else ():
            connection.send_command(*command)
            connection.read_response()
    except NoPermissionError:
        if not queueing:
            raise
    finally:
        connection.disconnect()


def _require_primary(answer: Any, address: str) -> None:
    """Check an answer to HELLO, a list or a mapping of names and values.

    Raises:
        redis.exceptions.ConnectionError: The server is a replica.
    """
    pairs = (
        answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    )
    if pairs.get(b"role", pairs.get("role")) not in (b"master", "master"):
        raise RedisConnectionError(f"{address} is not the primary")


def name(app: Any) -> str:
    """Return the addresses of the process's brokers for messages, without users and passwords."""
    found = broker.endpoints(app)
    if not found:
        connection = app.connection_for_read()
        # Some transports (sqla) have a whole URL as host.
        return redact(f"{connection.transport_cls}://{connection.hostname or ''}")
    return ", ".join(endpoint.address for endpoint in found)


def question(app: Any, results: bool = False) -> Callable[[], str | None]:
    """Return a function that tells which server does not answer and why, or None if all do; call it as often as needed.

    With ``results`` it also asks the result store after the broker has answered: a worker's event loop writes
    some results itself, and hangs if the store hangs.
    """
    brokers = Question(lambda: ask(app), name(app))
    found = broker.result_endpoints(app) if results else []
    if not found:
        return lambda: _named("broker", brokers.ask())
    addresses = ", ".join(endpoint.address for endpoint in found)
    store = Question(lambda: ask_endpoints(found), addresses)

    def ask_both() -> str | None:
        return _named("broker", brokers.ask()) or _named("result store", store.ask())

    return ask_both


def _named(who: str, trouble: str | None) -> str | None:
    return None if trouble is None else f"{who} {trouble}"


def ask(app: Any) -> str | None:
    """Return in one line which brokers of the process don't answer and why; None if one answers.

    Raises:
        Exception: the question could not be asked, so the broker is not to blame.
    """
    return ask_for_room(app)[0]


def ask_for_room(app: Any) -> tuple[str | None, bool]:
    """Like :func:`ask`; also return whether a broker answered, but is out of memory and refuses writes."""
    endpoints = broker.endpoints(app)
    if not endpoints:
        return _ask_any_transport(app), False
    failures = _failures(endpoints, queueing=True)
    return _told(failures), any(isinstance(exc, OutOfMemoryError) for _, exc in failures)


def ask_endpoints(endpoints: list[broker.Endpoint], queueing: bool = False) -> str | None:
    """Return in one line why none of the addresses answers; None if one does. See :func:`ping`.

    Raises:
        Exception: the question could not be asked.
    """
    return _told(_failures(endpoints, queueing))


def _failures(
    endpoints: list[broker.Endpoint], queueing: bool
) -> list[tuple[broker.Endpoint, Exception]]:
    """Return each address with its error; an empty list if one answers."""
    found: list[tuple[broker.Endpoint, Exception]] = []
    for endpoint in endpoints:
        try:
            ping(endpoint, queueing)
        except (RedisError, OSError) as exc:
            # The broker did not cause it, so it must not excuse a hang.
            if is_shortage(exc):
                raise
            found.append((endpoint, exc))
        else:
            return []
    return found


def _told(failures: list[tuple[broker.Endpoint, Exception]]) -> str | None:
    return "; ".join(f"{endpoint.address}: {error_text(exc)}" for endpoint, exc in failures) or None


def _ask_any_transport(app: Any) -> str | None:
    with app.connection_for_read() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
        except connection.connection_errors as exc:
            return f"{name(app)}: {error_text(exc)}"
    return None


class Question:
    """Asks one question at a time in a separate thread and never waits longer than a deadline.

    A question that hangs keeps its thread. Until it ends, further ones count as unanswered, so threads and
    connections don't pile up. ``subject`` names the asked server in that message.
    """

    def __init__(
        self, put: Callable[[], str | None], subject: str, deadline: float = DEADLINE
    ) -> None:
        self._put = put
        self._subject = subject
        self._deadline = deadline
        self._thread: threading.Thread | None = None
        self._answer: tuple[str | None, Exception | None] | None = None

    def ask(self) -> str | None:
        """Return the answer, or a text that says that none came in time.

        Raises:
            Exception: the error that the question raised.
        """
        if self._thread is None or not self._thread.is_alive():
            self._answer = None
            self._thread = threading.Thread(
                target=self._run, name="celery_fleet.question", daemon=True
            )
            self._thread.start()
        self._thread.join(self._deadline)
        if self._thread.is_alive() or self._answer is None:
            return f"{self._subject}: no answer within {self._deadline:g} s"
        answer, exc = self._answer
        if exc is not None:
            raise exc
        return answer

    def _run(self) -> None:
        try:
            self._answer = self._put(), None
        except Exception as exc:  # noqa: BLE001  # raised again in the thread that asked
            self._answer = None, exc
