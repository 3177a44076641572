"""The recipes of docs/tracing.md, word for word, with the real SDKs, a real worker, and a test receiver."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fleet import ROOT, Fleet, running, wait_for
from tests.unit.celeries.environments import Environment, interpreter, made

pytestmark = pytest.mark.long

PAGE = (ROOT / "docs" / "tracing.md").read_text()
PYTHON = "3.11"


def recipe(heading: str) -> str:
    """Return the Python of a section of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


class Receiver:
    """Records what is posted to it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        keep = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the library's name
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                keep.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def has(self, path: str, *words: bytes) -> bool:
        """Return whether a request with all words came to this path."""
        together = b"".join(body for where, body in self.got if where.startswith(path))
        return all(word in together for word in words)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


@contextmanager
def fleet(directory: Path, heading: str, *packages: str, **environ: str) -> Iterator[Fleet]:
    """Run a worker whose application has the lines of a recipe at its beginning."""
    assert interpreter(PYTHON) is not None
    python = made(Environment(PYTHON, "5.7", ("celery[redis]==5.7.*", *packages)))
    (directory / "recipe.py").write_text(f"from shop import app\n{recipe(heading)}")
    (directory / "sitecustomize.py").write_text(
        f"import os\nos.environ.update({ {**environ, 'CELERY_FLEET_RELEASE': '1f0c2d3e4a5b'}!r})\n"
    )
    options = ("-P", "prefork", "-c", "1", "-I", "recipe")
    with running(directory, *options, python=str(python)) as found:
        yield found


def test_errors_arrive_at_sentry(tmp_path: Path, receiver: Receiver) -> None:
    dsn = f"http://public@127.0.0.1:{receiver.port}/1"
    with fleet(
        tmp_path,
        "Sentry",
        "sentry-sdk>=2,<3",
        SENTRY_DSN=dsn,
        SENTRY_ENVIRONMENT="production",
    ) as one:
        one.app().send_task("shop.fail", ("no such row",), task_id="4711", queue="mail")
        wait_for(
            lambda: receiver.has(
                "/api/1/envelope/",
                *(b"ValueError", b"no such row", b"shop.fail", b"4711"),
                *(b'"release":"1f0c2d3e4a5b"', b'"environment":"production"'),
            )
        )


def test_spans_arrive_by_opentelemetry(tmp_path: Path, receiver: Receiver) -> None:
    with fleet(
        tmp_path,
        "OpenTelemetry",
        "opentelemetry-sdk>=1.30,<2",
        "opentelemetry-exporter-otlp-proto-http>=1.30,<2",
        "opentelemetry-instrumentation-celery",
        OTEL_SERVICE_NAME="shop-worker",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.port}",
    ) as one:
        one.app().send_task("shop.add", (1, 2), task_id="4711", queue="mail")
        wait_for(
            lambda: receiver.has(
                "/v1/traces", b"run/shop.add", b"4711", b"shop-worker", b"celery.state"
            )
        )
