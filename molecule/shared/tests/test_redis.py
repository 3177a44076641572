"""Both instances of Redis accept only TLS and known users; and clients talk only to them."""

from __future__ import annotations

import json
import socket
import ssl
import warnings
from typing import TYPE_CHECKING

import pytest
from support import resp, tasks
from support.web import authority

if TYPE_CHECKING:
    from support.inventory import Fleet

KINDS = ("broker", "results")
both = pytest.mark.parametrize("kind", KINDS)
# Beat does not use results, so it has no user there.
USERS = {
    "broker": ("worker", "beat", "producer", "flower", "operator", "admin"),
    "results": ("worker", "producer", "flower", "operator", "admin"),
}

pytestmark = [
    pytest.mark.unit(f"redis@{{celery_app_name}}-{kind}.service", "redis") for kind in KINDS
]


@both
def test_does_not_answer_in_plaintext(fleet: Fleet, kind: str) -> None:
    address = (fleet.of("redis")["ansible_host"], resp.port_of(fleet, kind))
    with socket.create_connection(address, 5) as plain:
        plain.sendall(b"PING\r\n")
        plain.settimeout(5)
        try:
            answer = plain.recv(100)
        except ConnectionResetError:
            answer = b""
    assert answer[:1] not in (b"+", b"-")


@both
def test_does_not_answer_without_a_password(fleet: Fleet, kind: str) -> None:
    with resp.connect(fleet, kind) as client, pytest.raises(resp.Refused, match="NOAUTH"):
        client.send("PING")


@both
def test_refuses_a_wrong_password(fleet: Fleet, kind: str) -> None:
    users = USERS[kind]
    with resp.provoked(fleet, kind, *((user, "auth", "AUTH") for user in users)):
        for user in users:
            with (
                resp.connect(fleet, kind) as client,
                pytest.raises(resp.Refused, match="WRONGPASS"),
            ):
                client.send("AUTH", user, "wrong")


@both
def test_has_no_default_user(fleet: Fleet, kind: str) -> None:
    with resp.provoked(fleet, kind, ("default", "auth", "AUTH")):
        for words in (("AUTH", ""), ("AUTH", "default", ""), ("AUTH", "default", "default")):
            with (
                resp.connect(fleet, kind) as client,
                pytest.raises(resp.Refused, match=r"WRONGPASS|ERR AUTH"),
            ):
                client.send(*words)
    with resp.session(fleet, kind, "admin") as admin:
        default = admin.send("ACL", "GETUSER", "default")
    assert "off" in dict(zip(default[::2], default[1::2], strict=True))["flags"]


@both
def test_has_a_user_for_each_component_and_no_other(fleet: Fleet, kind: str) -> None:
    with resp.session(fleet, kind, "admin") as admin:
        # Exporters' users exist if they have passwords.
        more = {"exporter", "redis_exporter", "backup"} & set(fleet.of("redis")["redis_passwords"])
        assert set(admin.send("ACL", "USERS")) == {"default", *USERS[kind]} | more


@both
def test_gives_no_user_the_password_of_another(fleet: Fleet, kind: str) -> None:
    passwords = fleet.of("redis")["redis_passwords"]
    assert len(set(passwords.values())) == len(passwords)


@both
@pytest.mark.parametrize("name", ["address", "name"])
def test_the_certificate_is_valid_and_from_the_authority(
    fleet: Fleet, kind: str, name: str
) -> None:
    called = {"address": fleet.of("redis")["ansible_host"], "name": fleet.one("redis")}[name]
    with (
        resp.connect(fleet, kind, name=called) as client,
        pytest.raises(resp.Refused, match="NOAUTH"),
    ):
        client.send("PING")


@both
def test_the_certificate_is_refused_for_another_name(fleet: Fleet, kind: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        resp.connect(fleet, kind, name=fleet.one("celery_workers"))


@both
def test_old_versions_of_tls_are_refused(fleet: Fleet, kind: str) -> None:
    context = ssl.create_default_context(cafile=str(authority(fleet.of("redis"))))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        # Python warns that they are deprecated, but the test needs them.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    address = (fleet.of("redis")["ansible_host"], resp.port_of(fleet, kind))
    with (
        socket.create_connection(address, 5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=fleet.one("redis"))


# Each case runs in a separate process, since settings are read once; forked, since importing takes longest.
CLIENT = """
import json, os, socket, subprocess, sys, tempfile
import celery
import kombu.transport.redis, celery.backends.redis  # now, and not in each fork

host = sys.stdin.read()
real = socket.getaddrinfo
socket.getaddrinfo = lambda name, *rest, **more: real(
    host if name == "elsewhere" else name, *rest, **more)
scratch = tempfile.mkdtemp(dir="/run")
text = open(os.environ["CELERY_FLEET_SETTINGS"]).read()
authority = json.loads(text)["celery"]["broker_use_ssl"]["ssl_ca_certs"]
subject = subprocess.run(["openssl", "x509", "-in", authority, "-noout", "-subject", "-nameopt", "compat"],
                         check=True, capture_output=True, text=True).stdout.split("=", 1)[1].strip()
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", subject, "-keyout", scratch + "/key", "-out", scratch + "/ca"],
               check=True, capture_output=True)
CASES = {"right": text, "name": text.replace("@" + host + ":", "@elsewhere:"),
         "authority": text.replace(authority, scratch + "/ca")}

def attempt(work):
    try:
        work()
    except Exception as error:
        chain = []
        while error:
            chain.append(type(error).__name__ + ": " + str(error))
            error = error.__cause__ or error.__context__
        return "; ".join(chain)
    return "connected"

def outcomes():
    app = celery.Celery()
    found = {"broker": attempt(lambda: app.connection_for_write().ensure_connection(
        max_retries=1, interval_start=0))}
    if app.conf.result_backend.startswith("rediss:"):
        found["results"] = attempt(lambda: app.backend.client.ping())
    return found

found = {}
for case, settings in CASES.items():
    path = scratch + "/settings.json"
    with open(path, "w") as stream:
        stream.write(settings)
    os.environ["CELERY_FLEET_SETTINGS"] = path
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, json.dumps(outcomes()).encode())
        os._exit(0)
    os.close(theirs)
    found[case] = json.loads(os.read(ours, 65536))
for name in os.listdir(scratch):
    os.unlink(scratch + "/" + name)
os.rmdir(scratch)
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("component", "group", "pin"),
    [
        ("worker", "celery_workers", "worker-{celery_worker_host_instances[0]}"),
        ("beat", "celery_beat", "beat"),
        ("producer", "celery_producers", "web"),
        ("flower", "flower", "flower"),
    ],
)
def test_clients_refuse_another_server(fleet: Fleet, component: str, group: str, pin: str) -> None:
    """Try a server with another name, and one with another authority of the same name."""
    name = pin.format_map(fleet.of(group))
    printed = tasks.run_in_release(
        fleet, fleet.one(group), name, component, CLIENT, fleet.one("redis")
    )
    found = json.loads(printed)
    servers = {"broker"} if component == "beat" else {"broker", "results"}
    assert found["right"] == dict.fromkeys(servers, "connected")
    for case, reason in (("name", "Hostname mismatch"), ("authority", "certificate verify failed")):
        assert set(found[case]) == servers
        for text in found[case].values():
            assert "CERTIFICATE_VERIFY_FAILED" in text
            assert reason in text


@pytest.mark.hosts("redis")
def test_debians_own_instance_is_masked(fleet: Fleet, host_name: str) -> None:
    unit = f"{fleet.of('redis')['redis_flavor']}-server.service"
    command = ["systemctl", "show", "--property=LoadState,ActiveState", unit]
    found = fleet.must(host_name, command).split()
    assert set(found) == {"LoadState=masked", "ActiveState=inactive"}
