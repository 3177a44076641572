"""Send requests to nginx from outside, over TLS that trusts only the fleet's authority."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.inventory import Fleet, Variables


@dataclass(frozen=True)
class Answer:
    """A server's answer."""

    status: int
    body: str
    challenge: str

    @property
    def json(self) -> Any:
        """Return the body as data."""
        return json.loads(self.body)


def authority(variables: Variables) -> Path:
    """Return the certificate of the fleet's own authority, on the control side."""
    return Path(variables["pki_directory"]) / "ca.crt"


class _Connection(http.client.HTTPSConnection):
    """A connection to an address that expects the certificate of a name."""

    def __init__(self, address: str, name: str, port: int, cafile: Path) -> None:
        self._context = ssl.create_default_context(cafile=str(cafile))
        super().__init__(name, port, timeout=40, context=self._context)
        self._address = address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)


def request(
    variables: Variables,
    name: str,
    port: int,
    path: str,
    method: str = "GET",
    login: tuple[str, str] | None = None,
    content: Any = None,
) -> Answer:
    """Send a request to a host, with exactly this path; `content` is sent as JSON."""
    connection = _Connection(variables["ansible_host"], name, port, authority(variables))
    headers, body = {}, None
    if content is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(content)
    if login is not None:
        token = base64.b64encode(":".join(login).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return Answer(answer.status, text, answer.getheader("WWW-Authenticate", ""))
    finally:
        connection.close()


def api(
    fleet: Fleet, path: str, method: str = "GET", *, login: bool = True, content: Any = None
) -> Answer:
    """Send a request to the application's web process; `content` is sent as JSON."""
    name = fleet.one("celery_producers")
    variables = fleet.expected[name]
    who = (
        variables["celery_producer_web_auth_user"],
        variables["celery_producer_web_auth_password"],
    )
    port = variables["celery_producer_web_port"]
    return request(variables, name, port, path, method, who if login else None, content)


def flower(
    fleet: Fleet, path: str, method: str = "GET", *, login: bool | tuple[str, str] = True
) -> Answer:
    """Send a request to Flower at its address in the inventory; with the inventory's login unless another is given."""
    name = fleet.one("flower")
    variables = fleet.expected[name]
    own = (variables["flower_auth_user"], variables["flower_auth_password"])
    who = login if isinstance(login, tuple) else own if login else None
    port = variables["flower_port"]
    if prefix := variables["flower_url_prefix"].strip("/"):
        port, path = variables["celery_producer_web_port"], f"/{prefix}{path}"
    return request(variables, name, port, path, method, who)


@contextmanager
def requests_meanwhile(ask: Callable[[], Answer]) -> Iterator[list[int]]:
    """Send requests one after another while the block runs; collect the status of each answer, 0 if there was none."""
    answers: list[int] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.1):
            try:
                answers.append(ask().status)
            except (OSError, http.client.HTTPException):
                answers.append(0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()
