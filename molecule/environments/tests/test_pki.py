"""Certificates change while the fleet works: renewed, from a new authority, from outside, and for clients."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support import database, plays, tasks, units
from support.inventory import Fleet
from support.plays import Run

KINDS = ("broker", "results")
# Connections with these names last as long as their process; others come and go.
STANDING = ("worker", "beat", "flower")
_PRESENTED = "import ssl, sys; print(ssl.get_server_certificate((sys.argv[1], int(sys.argv[2]))))"
_CONNECT = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[3])
if sys.argv[4:]:
    context.load_cert_chain(*sys.argv[4:])
stream = context.wrap_socket(socket.create_connection(sys.argv[1:3], 10), server_hostname=sys.argv[1])
stream.sendall(b"PING\\r\\n")
print(stream.recv(100).decode())
"""


class Pki:
    """The fleet under test, and the certificates that its hosts show."""

    def __init__(self, fleet: Fleet, scratch: Path) -> None:
        self.fleet = fleet
        self.scratch = scratch
        self.variables = fleet.of("fleet")
        self.directory = Path(self.variables["pki_directory"])
        self.redis = fleet.one("redis")

    def run(
        self, title: str, *arguments: str, hosts: Mapping[str, Any] | None = None, **values: Any
    ) -> Run:
        """Run site.yml with variables for all hosts and for single hosts."""
        number = len(list(self.scratch.iterdir()))
        path = self.scratch / f"variables-{number}.json"
        path.write_text(json.dumps(values))
        words = [f"--extra-vars=@{path}", *arguments]
        if hosts:
            layer = self.scratch / f"layer-{number}.yml"
            layer.write_text(json.dumps({"all": {"hosts": hosts}}))
            words.append(f"--inventory={layer}")
        return plays.play(self.fleet, f"pki-{title}", *words)

    def well(self, title: str, *arguments: str, **values: Any) -> Run:
        """Run site.yml in the same way; it must succeed."""
        run = self.run(title, *arguments, **values)
        assert run.status == 0, run.end
        return run

    def presented(self, host: str, port: int) -> x509.Certificate:
        """Return the certificate that a server on a host shows."""
        text = self.fleet.must(host, ["python3", "-c", _PRESENTED, host, str(port)])
        return x509.load_pem_x509_certificate(text.encode())

    @property
    def servers(self) -> list[tuple[str, int]]:
        """Return all servers that show a certificate: both instances of Redis, and nginx."""
        return [
            *((self.redis, int(self.fleet.of("redis")[f"redis_{kind}_port"])) for kind in KINDS),
            (
                self.fleet.one("celery_producers"),
                int(self.fleet.of("celery_producers")["celery_producer_web_port"]),
            ),
        ]

    def clients(self) -> set[tuple[str, str]]:
        """Return the lasting connections of processes: instance and id."""
        found = set()
        for kind in KINDS:
            text = self.fleet.must(
                self.redis, ["celery-fleet", "redis", "--as", "admin", kind, "--", "client", "list"]
            )
            for line in text.splitlines():
                fields = dict(item.split("=", 1) for item in line.split() if "=" in item)
                if fields.get("user") in STANDING:
                    found.add((kind, fields["id"]))
        assert found
        return found

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Check that no process restarts or loses its connection in the block, and that all tasks run once."""
        label = uuid.uuid4().hex[:12]
        before, standing = units.main_pids(self.fleet), self.clients()
        tasks.send(self.fleet, [tasks.tracer(f"{label}-{n}", "discounts", 1) for n in range(20)])
        yield
        assert units.main_pids(self.fleet) == before
        assert standing <= self.clients()
        # New connections are accepted as well.
        tasks.send(self.fleet, [tasks.tracer(f"{label}-after", "discounts", 0)])
        database.assert_ran_once(self.fleet, label, 21, 90)

    def asks(self, host: str, *shown: str) -> str:
        """Return Redis's answer to a client with these files that trusts what the host trusts."""
        port = str(self.servers[0][1])
        command = [
            "python3",
            "-c",
            _CONNECT,
            self.redis,
            port,
            self.variables["celery_app_ca"],
            *shown,
        ]
        done = self.fleet.execute(host, command)
        return done.output + done.errors


@pytest.fixture(scope="module")
def pki(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(fleet, tmp_path_factory.mktemp("pki"))


class Authority:
    """An authority that signs certificates for hosts of the fleet: the fleet's own, or a user's."""

    def __init__(self, name: str, pki: Pki, above: Authority | None = None) -> None:
        self.pki = pki
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign(
            self.name, self.key.public_key(), above or self,
            x509.BasicConstraints(ca=True, path_length=None), 300,
        )  # fmt: skip

    @classmethod
    def own(cls, pki: Pki) -> Authority:
        """Return the fleet's own authority, with its key on the control side."""
        found = cls("unused", pki)
        passphrase = str(pki.variables["pki_ca_passphrase"]).encode()
        key = serialization.load_pem_private_key(
            (pki.directory / "ca.key").read_bytes(), passphrase
        )
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        found.key = key
        found.certificate = x509.load_pem_x509_certificate((pki.directory / "ca.crt").read_bytes())
        found.name = found.certificate.subject
        return found

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @staticmethod
    def sign(
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        signer: Authority,
        extension: x509.ExtensionType,
        days: float,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(extension, critical=False)
            .sign(signer.key, hashes.SHA256())
        )

    def issue(
        self, host: str, days: float = 200, key: ec.EllipticCurvePrivateKey | None = None
    ) -> tuple[str, str]:
        """Return a certificate for all names of a host, and its key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for name in self.pki.fleet.expected[host]["pki_subject_alt_names"]:
            try:
                names.append(x509.IPAddress(ip_address(name)))
            except ValueError:
                names.append(x509.DNSName(name))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self.sign(
            subject, key.public_key(), self, x509.SubjectAlternativeName(names), days
        )
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), text.decode()


def test_only_an_expiring_certificate_is_renewed(pki: Pki) -> None:
    """It is valid for ten days, and its key stays. Redis and nginx load the new one while they serve."""
    paths = [pki.directory / f"hosts/{pki.redis}.{suffix}" for suffix in ("crt", "key")]
    key = serialization.load_pem_private_key(paths[1].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    others = {path: path.read_bytes() for path in paths[0].parent.glob("*.crt") if path != paths[0]}
    paths[0].write_text(Authority.own(pki).issue(pki.redis, days=10, key=key)[0])
    before = {server: pki.presented(*server) for server in pki.servers}
    with pki.undisturbed():
        pki.well("renew")
    renewed = x509.load_pem_x509_certificate(paths[0].read_bytes())
    assert renewed.not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)
    for server in pki.servers:
        shown = pki.presented(*server)
        assert (shown == renewed) == (server[0] == pki.redis)
        assert (shown == before[server]) == (server[0] != pki.redis)
    assert {path: path.read_bytes() for path in others} == others


@pytest.fixture
def new_authority_becomes_the_first(pki: Pki) -> Generator[None]:
    """Afterwards, make the authority that took over the first one, for the inventory and the next tests."""
    yield
    for suffix in ("crt", "key"):
        new = pki.directory / f"ca-2.{suffix}"
        if new.exists() and not (pki.directory / "unfinished").exists():
            shutil.move(new, pki.directory / f"ca.{suffix}")
    assert set(pki.well("counted-anew").changed.values()) == {0}


@pytest.mark.usefixtures("new_authority_becomes_the_first")
def test_an_authority_takes_over_in_three_runs(pki: Pki) -> None:
    marker = pki.directory / "unfinished"
    marker.touch()
    early = pki.run("rollover-early", pki_ca_generation=2, pki_ca_trusted_generations=[1])
    assert (early.status == 0, early.contacts) == (False, 0)
    assert "do not trust yet" in " ".join(early.text.split())
    old = [pki.presented(*server) for server in pki.servers]
    with pki.undisturbed():
        pki.well("rollover-trust", pki_ca_trusted_generations=[2])
    assert [pki.presented(*server) for server in pki.servers] == old
    late = pki.run("rollover-late", pki_ca_generation=2)
    assert (late.status == 0, late.contacts) == (False, 0)
    with pki.undisturbed():
        pki.well("rollover-issue", pki_ca_generation=2, pki_ca_trusted_generations=[1])
    new = x509.load_pem_x509_certificate((pki.directory / "ca-2.crt").read_bytes())
    for server in pki.servers:
        pki.presented(*server).verify_directly_issued_by(new)
    with pki.undisturbed():
        pki.well("rollover-end", pki_ca_generation=2)
    for host in pki.fleet.hosts("fleet"):
        bundle = pki.fleet.must(host, ["cat", str(pki.variables["celery_app_ca"])])
        assert x509.load_pem_x509_certificates(bundle.encode()) == [new]
    marker.unlink()


def test_certificates_from_outside_take_over_and_back(pki: Pki) -> None:
    """The certificates have other keys, which a running Redis could not get as a credential."""
    root = Authority("corporate root", pki)
    middle = Authority("corporate middle", pki, above=root)
    hosts = {}
    for host in pki.fleet.hosts("fleet"):
        certificate, key = middle.issue(host)
        hosts[host] = {"pki_certificate": certificate + middle.pem, "pki_key": key}
    own = (pki.directory / "ca.crt").read_text()
    with pki.undisturbed():
        pki.well("outside-trust", pki_ca_bundle=root.pem)
    with pki.undisturbed():
        pki.well("outside", hosts=hosts, pki_source="external", pki_ca_bundle=root.pem + own)
    for server in pki.servers:
        pki.presented(*server).verify_directly_issued_by(middle.certificate)
    with pki.undisturbed():
        pki.well("outside-back", pki_ca_bundle=root.pem)
    assert set(pki.well("outside-end").changed.values()) != {0}
    assert "corporate" not in pki.fleet.must(
        pki.redis, ["cat", str(pki.variables["celery_app_ca"])]
    )


def test_wrong_certificates_are_refused_before_any_host_is_reached(pki: Pki) -> None:
    root = Authority("corporate root", pki)
    middle = Authority("corporate middle", pki, above=root)
    first, second, *_ = pki.fleet.hosts("fleet")
    ended = middle.issue(first, days=-1)
    foreign = middle.issue(first)
    hosts = {
        host: dict.fromkeys(("pki_certificate", "pki_key"), "") for host in pki.fleet.hosts("fleet")
    }
    hosts[first] = {"pki_certificate": ended[0] + middle.pem, "pki_key": foreign[1]}
    hosts[second] = {"pki_certificate": foreign[0], "pki_key": foreign[1]}
    run = pki.run("refused", hosts=hosts, pki_source="external", pki_ca_bundle=root.pem)
    assert run.status != 0
    assert run.contacts == 0
    text = " ".join(run.text.split())
    for words in (
        "which expired on",
        "is not the key of",
        f"not for {second}",
        "lacks its chain",
        "pki_chain",
    ):
        assert words in text
    assert foreign[1].splitlines()[1] not in run.text


def test_clients_show_a_certificate_too(pki: Pki) -> None:
    fleet, label = pki.fleet, uuid.uuid4().hex[:12]
    worker = fleet.hosts("celery_workers")[0]
    directory = str(pki.variables["celery_app_config_directory"])
    pair = [f"{directory}/pki/client.crt", f"{directory}/pki/client.key"]
    assert "NOAUTH" in pki.asks(worker)
    tasks.send(fleet, [tasks.tracer(f"{label}-{n}", "discounts", 1) for n in range(20)])
    pki.well("mutual", pki_mode="mutual")
    try:
        assert "NOAUTH" not in pki.asks(worker)
        assert "NOAUTH" in pki.asks(worker, *pair)
        # A server could not use it.
        purposes = fleet.must(worker, ["openssl", "x509", "-noout", "-purpose", "-in", pair[0]])
        assert "SSL client : Yes" in purposes
        assert "SSL server : No" in purposes
        again = pki.well("mutual-again", pki_mode="mutual")
        assert set(again.changed.values()) == {0}
        for command in ("redis -- ping", "status", "inspect ping", "health --now"):
            fleet.must(pki.redis if "redis" in command else worker, f"celery-fleet {command}")
        tasks.send(fleet, [tasks.tracer(f"{label}-more-{n}", "discounts", 1) for n in range(10)])
        database.assert_ran_once(fleet, label, 30, 120)
        # If a worker's process dies, its unit's hand-back runs as root, has the key, and drops its rights after that.
        name = next(
            unit for host, unit in units.main_pids(fleet) if host == worker and "-worker@" in unit
        )
        fleet.must(worker, ["systemctl", "kill", "--kill-whom=main", "--signal=KILL", name])
        tasks.send(fleet, [tasks.tracer(f"{label}-last", "discounts", 0)])
        database.assert_ran_once(fleet, f"{label}-last", 1, 120)
        journal = fleet.must(
            worker, ["journalctl", "--no-pager", "--output=cat", "--lines=200", f"--unit={name}"]
        )
        assert "nothing is handed back" not in journal
        assert "nothing more is handed back" not in journal
        user = str(pki.variables["celery_app_user"])
        reading = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={user}",
            "--clear-groups",
            "cat",
            pair[1],
        ]
        assert "Permission denied" in fleet.execute(worker, reading).errors
        # No process of the application has the key with which the host's servers prove who they are.
        for number in fleet.must(worker, ["pgrep", f"--uid={user}"]).split():
            environ = fleet.must(worker, ["cat", f"/proc/{number}/environ"])
            given = dict(item.split("=", 1) for item in environ.split("\0") if "=" in item)
            credentials = fleet.must(worker, ["ls", given["CREDENTIALS_DIRECTORY"]]).split()
            assert "client.key" in credentials
            assert "host.key" not in credentials
    finally:
        pki.well("server-again", pki_mode="server")
    assert "NOAUTH" in pki.asks(worker)
    for host in fleet.hosts("fleet"):
        assert fleet.execute(host, ["ls", *pair]).output == ""
    assert set(pki.well("server-still", pki_mode="server").changed.values()) == {0}
