"""Ask broker and result store whether they answer, on connections of our own, in bounded time."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError
from redis.retry import Retry

from celery_fleet.common.errors import one_line
from celery_fleet.common.redact import redact
from celery_fleet.compat import broker

#: Seconds for each of connecting, the TLS handshake, AUTH, and each command.
TIMEOUT = 3.0

#: Seconds after which the broker counts as not answering, whatever the probe hangs in: name
#: resolution knows no timeout of its own.
DEADLINE = 8.0

#: Shortages of this process; the broker is not to blame, so they must not excuse a hung worker.
_OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


#: What the probe would write to, and never does; every user of a broker may.
ROOM = "fleet:room"

#: A write that is queued and dropped.
_WOULD_WRITE = (("MULTI",), ("SADD", ROOM, "1"), ("DISCARD",))


def ping(endpoint: broker.Endpoint, queueing: bool = False, timeout: float = TIMEOUT) -> None:
    """Connect, authenticate and PING one server; the connection is closed in any case.

    With ``queueing`` a write is queued in a transaction as well, and dropped: a full Redis
    (``noeviction``) answers a PING, but takes no such command, so that kombu can neither connect
    nor publish. (Redis 7.0 takes none at all in a transaction then; 8.0 and Valkey take a PING.)
    A user who may not do that has had an answer.

    Raises:
        redis.exceptions.RedisError, OSError: where it does not answer or refuses us.
    """
    options: dict[str, Any] = {
        "host": endpoint.host,
        "port": endpoint.port,
        "username": endpoint.username,
        "password": endpoint.password,
        "db": endpoint.database,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
    }
    connection: redis.Connection = (
        redis.Connection(**options)
        if endpoint.tls is None
        else redis.SSLConnection(**options, **endpoint.tls)
    )
    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
        for command in _WOULD_WRITE if queueing else ():
            connection.send_command(*command)
            connection.read_response()
    except NoPermissionError:
        if not queueing:
            raise
    finally:
        connection.disconnect()


def name(app: Any) -> str:
    """The process's brokers as a status calls them: addresses without users and passwords."""
    found = broker.endpoints(app)
    if not found:
        connection = app.connection_for_read()
        # Some transports (sqla) have a whole URL for a host.
        return redact(f"{connection.transport_cls}://{connection.hostname or ''}")
    return ", ".join(endpoint.address for endpoint in found)


def question(app: Any, results: bool = False) -> Callable[[], str | None]:
    """The question who does not answer and why, None where all do; put as often as wanted.

    With ``results`` the result store is asked as well, once the broker has answered: a worker's
    event loop writes some results itself, and hangs with a store that hangs.
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
    """Which brokers of the process don't answer and why, in one line; None where one does.

    Raises:
        Exception: where the question could not be put, so the broker is not to blame.
    """
    return ask_for_room(app)[0]


def ask_for_room(app: Any) -> tuple[str | None, bool]:
    """As :func:`ask`, and whether one that refuses is there, but has no memory for anything new."""
    endpoints = broker.endpoints(app)
    if not endpoints:
        return _ask_any_transport(app), False
    failures = _failures(endpoints, queueing=True)
    return _told(failures), any(isinstance(exc, OutOfMemoryError) for _, exc in failures)


def ask_endpoints(endpoints: list[broker.Endpoint], queueing: bool = False) -> str | None:
    """Why none of some addresses answers, in one line; None where one does. As :func:`ping`.

    Raises:
        Exception: where the question could not be put.
    """
    return _told(_failures(endpoints, queueing))


def _failures(
    endpoints: list[broker.Endpoint], queueing: bool
) -> list[tuple[broker.Endpoint, Exception]]:
    """What each address does in place of an answer; nothing where one answers."""
    found: list[tuple[broker.Endpoint, Exception]] = []
    for endpoint in endpoints:
        try:
            ping(endpoint, queueing)
        except (RedisError, OSError) as exc:
            if _is_ours(exc):
                raise
            found.append((endpoint, exc))
        else:
            return []
    return found


def _told(failures: list[tuple[broker.Endpoint, Exception]]) -> str | None:
    return "; ".join(f"{endpoint.address}: {reason(exc)}" for endpoint, exc in failures) or None


def _is_ours(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in _OUR_OWN:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _ask_any_transport(app: Any) -> str | None:
    with app.connection_for_read() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
        except connection.connection_errors as exc:
            return f"{name(app)}: {reason(exc)}"
    return None


def reason(exc: BaseException) -> str:
    """An exception's text in one line without secrets, its type where it has no text."""
    return redact(one_line(exc) or type(exc).__name__)


class Question:
    """Puts one question at a time in a thread of its own and never waits beyond a deadline.

    A question that hangs is left to end by itself; until it has, further ones count as unanswered,
    so threads and connections don't pile up. ``subject`` is who is asked, for the text of that.
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
        """The answer, or a text that says that there was none in time.

        Raises:
            Exception: what the question raised.
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
