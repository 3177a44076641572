"""nginx's sites for the delivered fleets, parsed."""

from __future__ import annotations

import fnmatch
import re
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.ports import free_port, listens
from tests.programs import required
from tests.render.conftest import RENDERS
from tests.render.fleet import Fleet, Host
from tests.render.units import parse, whole

SITES = ["web", "flower"]
_TOKEN = re.compile(r"""\s+|\#[^\n]*|([{};])|('[^']*'|"[^"]*"|[^\s{};'"]+)""")


@dataclass
class Block:
    """A block of nginx's configuration: its directives, and the blocks in it by their heading."""

    directives: list[list[str]] = field(default_factory=list)
    blocks: dict[str, Block] = field(default_factory=dict)

    def all(self, name: str) -> list[list[str]]:
        return [words[1:] for words in self.directives if words[0] == name]

    def one(self, name: str) -> list[str]:
        (found,) = self.all(name)
        return found


def block(text: str) -> Block:
    """Parse a configuration; fail if nginx would not accept its syntax."""
    stack, words, at = [Block()], list[str](), 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        assert token, f"at {text[at : at + 40]!r}"
        at = token.end()
        sign, word = token.groups()
        if word:
            words.append(word.strip("'\""))
        elif sign == ";":
            assert words, "an empty directive"
            stack[-1].directives.append(words)
            words = []
        elif sign == "{":
            assert " ".join(words) not in stack[-1].blocks, f"{words} twice"
            stack.append(stack[-1].blocks.setdefault(" ".join(words), Block()))
            words = []
        elif sign == "}":
            assert not words, f"no semicolon after {words}"
            stack.pop()
            assert stack, "a brace too many"
    assert len(stack) == 1, "a brace is missing"
    assert not words, f"no semicolon after {words}"
    return stack[0]


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["local", "production"])
def fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    """Return each fleet in which every site has its own port."""
    return pytestconfig.stash[RENDERS][str(request.param)].result()


@pytest.fixture
def host(fleet: Fleet, site: str) -> Host:
    """Return a host that has the site. If there are several, all have the same site under their own names."""
    found = [
        h
        for h in fleet.hosts.values()
        if f"{h.variables['celery_app_name']}-{site}.service" in h.units
    ]
    names = {f"/etc/nginx/conf.d/{h.variables['celery_app_name']}-{site}.conf" for h in found}
    texts = {re.sub(r"server_name .*;", "", h.text(name)) for h in found for name in names}
    assert len(texts) == 1
    return found[0]


@pytest.fixture
def path(host: Host, site: str) -> str:
    return f"/etc/nginx/conf.d/{host.variables['celery_app_name']}-{site}.conf"


@pytest.fixture
def server(host: Host, path: str) -> Block:
    return block(host.text(path)).blocks["server"]


def locations(server: Block) -> dict[str, Block]:
    return {name: found for name, found in server.blocks.items() if name.startswith("location ")}


def test_a_site_only_has_tls(server: Block, host: Host, site: str) -> None:
    port = {"web": "celery_producer_web_port", "flower": "flower_port"}[site]
    listens = server.all("listen")
    assert listens
    for words in listens:
        assert "ssl" in words
        assert words[0].rpartition(":")[2] == str(host.variables[port])
    assert server.one("ssl_protocols") == ["TLSv1.2", "TLSv1.3"]
    for name in ("ssl_certificate", "ssl_certificate_key"):
        assert server.one(name)[0] in host.files


def test_every_request_goes_to_the_socket(server: Block, host: Host, site: str) -> None:
    app = host.variables["celery_app_name"]
    if site == "web":
        socket = parse(whole(host, f"{app}-web.socket"))["Socket"]["ListenStream"][-1]
        # If it listens on every interface, nginx connects to the loopback address.
        socket = socket.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is read
    else:
        directory = parse(whole(host, f"{app}-flower.service"))["Service"]["RuntimeDirectory"][-1]
        socket = f"/run/{directory}/flower.sock"
    assert locations(server)
    for found in locations(server).values():
        wanted = f"http://unix:{socket}:" if socket.startswith("/") else f"http://{socket}"
        assert found.one("proxy_pass") == [wanted]
    assert any(name in ("location /", "location ^~ /") for name in locations(server))


def test_a_client_can_not_forge_its_address(server: Block) -> None:
    for found in locations(server).values():
        headers = {words[0].lower(): words[1] for words in found.all("proxy_set_header")}
        # With the usual appending, the header would begin with what the client sent.
        assert headers["x-forwarded-for"] == "$remote_addr"
        assert headers["x-forwarded-proto"] == "$scheme"


def test_websockets_pass_through(server: Block, host: Host, path: str) -> None:
    maps = [name.split() for name in block(host.text(path)).blocks if name.startswith("map ")]
    defined = {words[2] for words in maps}
    for found in locations(server).values():
        headers = {words[0].lower(): words[1] for words in found.all("proxy_set_header")}
        assert headers["connection"] in defined


def test_the_two_sites_of_a_host_share_no_name(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        texts = [
            item["content"]
            for path, item in host.files.items()
            if path.startswith("/etc/nginx/conf.d/")
        ]
        maps = [name for text in texts for name in block(text).blocks if name.startswith("map ")]
        assert len(maps) == len(set(maps)) == 2 * len(texts)


def test_protected_paths_ask_for_the_password(
    server: Block, host: Host, site: str, fleet: Fleet
) -> None:
    variables = host.variables
    paths = ["/"] if site == "flower" else variables["celery_producer_web_protected_paths"]
    prefix = "flower" if site == "flower" else "celery_producer_web"
    secret = fleet.secrets.get(site) or fleet.secrets[f"{prefix}_auth_password "]
    for path in paths:
        # ^~: a location by regular expression must not take precedence.
        found = locations(server)[f"location ^~ {path}"]
        assert found.one("auth_basic") != ["off"]
        item = host.files[found.one("auth_basic_user_file")[0]]
        assert (item["group"], item["mode"], item["secret"]) == ("www-data", "0640", True)
        user, _, hashed = item["content"].strip().partition(":")
        assert user == variables[f"{prefix}_auth_user"]
        done = subprocess.run(
            ["openssl", "passwd", "-6", "-salt", hashed.split("$")[2], "-stdin"],
            input=secret,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == hashed


def test_the_old_password_file_is_removed_if_nothing_is_protected(
    valkey: Fleet, local: Fleet
) -> None:
    (path,) = (
        path for path in local.hosts["control1"].files if path.endswith("-nginx/web.htpasswd")
    )
    (host,) = valkey.hosts.values()
    assert path not in host.files
    assert {path, "/run/flexiprice-web.sock"} <= set(
        host.parts["celery_producer"]["owned"]["files"]
    )


def test_paths_that_are_not_protected_are_open(server: Block, site: str) -> None:
    if site == "web":
        assert locations(server)["location /"].all("auth_basic") == []


def test_nginx_checks_the_files_before_it_is_reloaded(host: Host, path: str) -> None:
    checks = [
        check
        for part in host.parts.values()
        for check in part.get("checks", [])
        if path in check["files"]
    ]
    assert [check["command"][:2] for check in checks] == [["nginx", "-t"]]
    assert host.units["nginx.service"]["on_change"] == "reload"


# --- Flower within the web site ----------------------------------------------------------------------

WEB = "/etc/nginx/conf.d/other-shop-web.conf"
ADDED = "/etc/celery-fleet/other-shop/nginx-web/flower.conf"


def within(fleet: Fleet) -> tuple[Host, Block, Block]:
    """Return the host, its web site, and what Flower adds to it."""
    (host,) = fleet.hosts.values()
    site = block(host.text(WEB)).blocks["server"]
    (included,) = site.all("include")
    assert fnmatch.fnmatch(ADDED, included[0])
    assert list(fnmatch.filter(host.files, included[0])) == [ADDED]
    return host, site, block(host.text(ADDED))


def test_flower_is_a_location_of_the_web_site(odd: Fleet) -> None:
    host, site, added = within(odd)
    assert "/etc/nginx/conf.d/other-shop-flower.conf" not in host.files
    # Flower's separate site is removed; with a separate site, its location is.
    owned = host.parts["celery_runtime_surplus"]["owned"]["files"]
    assert "/etc/nginx/conf.d/other-shop-flower.conf" in owned
    assert WEB not in owned
    assert ADDED not in owned
    found = added.blocks["location ^~ /tools/flower/"]
    # The whole path is passed on, because nothing follows the socket in `proxy_pass`.
    assert found.one("proxy_pass") == ["http://unix:/run/other-shop-flower/flower.sock:"]
    assert found.one("auth_basic") != site.blocks["location ^~ /api/v1/admin/"].one("auth_basic")
    item = host.files[found.one("auth_basic_user_file")[0]]
    assert (item["group"], item["mode"], item["secret"]) == ("www-data", "0640", True)
    maps = [name.split()[2] for name in block(host.text(WEB)).blocks if name.startswith("map ")]
    headers = {words[0].lower(): words[1] for words in found.all("proxy_set_header")}
    assert {headers["upgrade"], headers["connection"]} == set(maps)
    assert headers["x-forwarded-for"] == "$remote_addr"
    assert added.blocks["location = /tools/flower"].one("return") == ["301", "/tools/flower/"]


def test_flower_is_told_of_its_prefix(odd: Fleet) -> None:
    host, _, _ = within(odd)
    text = host.text("/etc/celery-fleet/other-shop/flower.env")
    assert 'FLOWER_URL_PREFIX="tools/flower"' in text


def test_nginx_is_reloaded_when_flower_adds_its_location(odd: Fleet) -> None:
    host, _, _ = within(odd)
    for part in ("celery_producer", "flower"):
        (unit,) = [u for u in host.parts[part]["units"] if u["name"] == "nginx.service"]
        assert any(fnmatch.fnmatch(ADDED, pattern) for pattern in unit["files"])
        assert any(fnmatch.fnmatch(WEB, pattern) for pattern in unit["files"])
    assert [ADDED] in [check["files"] for check in host.parts["flower"]["checks"]]


def test_without_a_web_process_the_site_only_has_flower(flower_alone: Fleet) -> None:
    host, site, _ = within(flower_alone)
    assert [name for name in host.units if "-web." in name] == []
    assert {name: found.directives for name, found in locations(site).items()} == {
        "location /": [["return", "404"]]
    }
    assert [words[0].rpartition(":")[2] for words in site.all("listen")] == ["443", "443"]


def test_nginx_accepts_each_part(odd: Fleet, local: Fleet, tmp_path: Path) -> None:
    """nginx itself checks the files."""
    for number, fleet in enumerate((odd, local)):
        assert_taken(fleet, tmp_path / str(number))


def test_nginx_accepts_flower_alone(flower_alone: Fleet, tmp_path: Path) -> None:
    assert_taken(flower_alone, tmp_path)


def assert_taken(fleet: Fleet, root: Path) -> None:
    command = written(fleet, root)
    done = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what a running nginx lets through ----------------------------------------------------------------


def written(fleet: Fleet, root: Path, more: str = "") -> list[str]:
    """Write all of nginx's files of a fleet below a directory, and return the command that starts it there."""
    for host in fleet.hosts.values():
        for path, item in host.files.items():
            if any(part in path for part in ("/nginx/conf.d/", "/nginx-web/", "/pki/", "-nginx/")):
                place = root / path.removeprefix("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(item["content"].replace("/etc/", f"{root}/etc/"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {root}/{kind};" for kind in kinds)
    main = root / "nginx.conf"
    main.write_text(
        f"pid {root}/pid; events {{}} {more} "
        f"http {{ access_log off; {places} include {root}/etc/nginx/conf.d/*.conf; }}"
    )
    return [required("nginx"), "-e", f"{root}/error.log", "-c", str(main)]


class Backend(socketserver.ThreadingUnixStreamServer):
    """The server behind nginx: records the target of each request and answers 200."""

    def __init__(self, path: Path) -> None:
        self.targets: list[str] = []
        super().__init__(str(path), Answer)


class Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Backend)
        server.targets.append(self.rfile.readline().decode().split(" ")[1])
        while self.rfile.readline().strip():
            continue
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture
def running(odd: Fleet, tmp_path: Path) -> Iterator[tuple[int, Backend]]:
    """Run the web site with Flower in it, as on a host; yield its port and the server behind it."""
    command = written(odd, tmp_path, "daemon off; master_process off;")
    (tmp_path / "etc/nginx/conf.d/other-shop-metrics.conf").unlink()
    (site,) = (tmp_path / "etc/nginx/conf.d").iterdir()
    port = free_port()
    text = re.sub(r"listen \[::\]:\d+ ssl;", "", site.read_text())
    text = re.sub(r"listen \d+ ssl;", f"listen 127.0.0.1:{port} ssl;", text)
    site.write_text(re.sub(r"http://[^;]+;", f"http://unix:{tmp_path}/socket:;", text))
    backend = Backend(tmp_path / "socket")
    serving = threading.Thread(target=backend.serve_forever, args=(0.01,))
    serving.start()
    with subprocess.Popen(command) as nginx:
        try:
            deadline = time.monotonic() + 20
            while not listens(port):
                assert nginx.poll() is None, (tmp_path / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield port, backend
        finally:
            nginx.terminate()
            backend.shutdown()
            backend.server_close()
            serving.join()


def status(port: int, target: str) -> int:
    """Return the status of the answer to a request for exactly these bytes, which no HTTP client would send."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as stream,
    ):
        stream.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return int(stream.makefile("rb").readline().split()[1])


def test_no_way_up_or_fragment_leads_past_the_password(running: tuple[int, Backend]) -> None:
    """nginx chooses the location by the normalised path, and passes on the raw one."""
    port, backend = running
    assert status(port, "/api/v1/admin/x") == 401
    ups = ["..", "../", "..?x", ".%2e", "%2E%2e/x", "../x/..", "..#", "..#/delete", ".%2e#", "x#"]
    targets = [f"/api/v1/admin/{up}" for up in ups]
    targets += ["/open/../api/v1/admin/x", "/open%2f..%2fapi", "/#/api/v1/admin/x", "/open?x#y"]
    targets += ["/tools/flower/..", "/tools/flower/..#/api/tasks"]
    assert {target: status(port, target) for target in targets} == dict.fromkeys(targets, 400)
    assert backend.targets == []


def test_paths_that_only_resemble_a_way_up_pass(running: tuple[int, Backend]) -> None:
    port, backend = running
    targets = ["/", "/a..b", "/..a", "/x?next=/../y", "/x%23y"]
    assert {target: status(port, target) for target in targets} == dict.fromkeys(targets, 200)
    assert backend.targets == targets
