"""Where pip gets packages: from the test's own index, with TLS, a login, a client certificate and a proxy."""

from __future__ import annotations

import base64
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import index
from ansible_collections.celery_fleet.core.plugins.module_utils.release.build import build
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import BuildError

from tests.support.certificates import Authority
from tests.unit.release.place import PYTHON, USER, Place, wheel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("umask", "ran")]

WHEEL = "small-1.0-py3-none-any.whl"
PASSWORD = 'p"a\\s s#%1'
LOGIN = {"host": "localhost", "user": "me@example.org", "password": PASSWORD}


class Server:
    """An index with one package; it asks for a login, and for a client certificate if it has an authority for these."""

    def __init__(self, directory: Path, *, clients: Authority | None = None) -> None:
        self.authority = Authority("index")
        self.seen: list[str] = []
        content = (directory / WHEEL).read_bytes()
        expected = base64.b64encode(f"{LOGIN['user']}:{PASSWORD}".encode()).decode()
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                if self.headers.get("Authorization") != f"Basic {expected}":
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="index"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                page = f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode()
                body = content if self.path.startswith("/files/") else page
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if body is page else "application/zip")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = self.authority.issue(["DNS:localhost"])
        pem = directory / "server.pem"
        pem.write_text(certificate + key)
        context.load_cert_chain(pem)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients.pem)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"https://localhost:{self.server.server_address[1]}/simple"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    wheel(tmp_path)
    made = Server(tmp_path)
    yield made
    made.close()


FILES = {"app.py": "x = 1\n", "requirements.txt": "small==1.0\n"}


def test_packages_come_from_an_index_with_a_login(
    place: Place, server: Server, ran: list[dict[str, Any]]
) -> None:
    given = {"url": server.url, "ca": server.authority.pem, "logins": [LOGIN]}
    build(place.wanted(python=PYTHON, files=FILES, index=given))
    assert [package["name"] for package in place.note()["packages"]] == ["small"]
    assert f"/files/{WHEEL}" in server.seen
    # The login is neither visible to other users nor left on the host.
    for each in ran:
        text = f"{each['command']} {each.get('env')}"
        assert PASSWORD not in text
        assert LOGIN["user"] not in text
    for path in place.root.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert not list(place.root.rglob("pip.conf"))


def test_the_files_are_roots_and_the_users_to_read(tmp_path: Path) -> None:
    given = {"url": "https://a/simple", "logins": [LOGIN]}
    with index.settings(given, tmp_path / "pip", USER) as environment:
        assert environment["HOME"] == str(tmp_path / "pip")
        for path in (tmp_path / "pip", *(tmp_path / "pip").iterdir()):
            status = path.stat()
            assert status.st_uid == os.geteuid()
            assert status.st_mode & 0o027 == 0
            if os.geteuid() == 0:
                assert status.st_gid == USER.pw_gid
    assert not (tmp_path / "pip").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logins": []}, "Probably missing: a login that the package index accepts. .*logins"),
        (
            {"logins": [{**LOGIN, "password": "wrong"}]},
            "Probably missing: a login that the package index accepts",
        ),
        (
            {"ca": ""},
            "Probably missing: the authority .*Remedy: give .*celery_app_package_index.ca",
        ),
        (
            {"url": "https://localhost:1/simple"},
            "Probably missing: a way to the package index.* or a proxy in celery_app_package_index",
        ),
        (
            {"proxy": "http://localhost:1"},
            "Probably missing: a way to the package index",
        ),
    ],
    ids=["no login", "wrong password", "no authority", "no index", "no proxy"],
)
def test_errors_of_an_index_are_named(
    place: Place, server: Server, change: dict[str, Any], words: str
) -> None:
    given = {"url": server.url, "ca": server.authority.pem, "logins": [LOGIN], **change}
    with pytest.raises(BuildError, match=f"(?s){words}") as caught:
        build(place.wanted(python=PYTHON, files=FILES, index=given))
    assert PASSWORD not in str(caught.value)
    assert not list(place.root.rglob("pip.conf"))


def test_a_client_certificate(place: Place, tmp_path: Path) -> None:
    wheel(tmp_path)
    clients = Authority("clients")
    server = Server(tmp_path, clients=clients)
    try:
        given = {"url": server.url, "ca": server.authority.pem, "logins": [LOGIN]}
        with pytest.raises(BuildError, match=r"celery_app_package_index\.client_certificate"):
            build(place.wanted(python=PYTHON, files=FILES, index=given))
        certificate, key = clients.issue(["DNS:builder"])
        build(
            place.wanted(
                python=PYTHON, files=FILES, index={**given, "client_certificate": certificate + key}
            )
        )
    finally:
        server.close()
    assert place.note()["packages"]


def configured(**given: Any) -> str:
    return index._files(given, Path("/x"))["pip.conf"]


def test_pips_configuration() -> None:
    assert configured(url="https://a/simple", extra_urls=["https://b/simple", "http://c:80/d"]) == (
        "[global]\nindex-url = https://a/simple\nextra-index-url =\n    https://b/simple\n    http://c:80/d\n"
        "trusted-host =\n    c:80\n"
    )
    assert configured(proxy="http://proxy:3128") == "[global]\nproxy = http://proxy:3128\n"


def test_only_pip_gets_a_proxy_with_a_login() -> None:
    login = {"host": "proxy", "user": "a@b", "password": "p:/w"}
    given = {"proxy": "http://proxy:3128", "logins": [login]}
    assert "proxy = http://a%40b:p%3A%2Fw@proxy:3128\n" in configured(**given)
    assert index._proxy(given) == {}
    assert index._proxy({"proxy": "http://proxy:3128"})["https_proxy"] == "http://proxy:3128"


def test_packages_come_through_a_proxy(place: Place, tmp_path: Path, server: Server) -> None:
    """pip asks the proxy for a connection to the index; this one records that and connects."""
    log = tmp_path / "asked"
    program = Path(__file__).with_name("proxy.py")
    with subprocess.Popen(
        [PYTHON, str(program), str(log)], stdout=subprocess.PIPE, text=True
    ) as proxy:
        assert proxy.stdout
        port = proxy.stdout.readline().strip()
        try:
            given = {"url": server.url, "ca": server.authority.pem, "logins": [LOGIN]}
            given["proxy"] = f"http://127.0.0.1:{port}"
            build(place.wanted(python=PYTHON, files=FILES, index=given))
        finally:
            proxy.terminate()
    assert log.read_text().startswith("CONNECT localhost:")
