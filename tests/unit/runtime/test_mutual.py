"""Redis asks clients for a certificate; a real worker, a producer, a probe and a question show theirs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from cryptography.x509.oid import ExtendedKeyUsageOID

from celery_fleet.common import client_certificate
from celery_fleet.common.redis_client import Client, ClientError, Server
from tests.facts import facts
from tests.fleet import NODE, PASSWORDS, QUEUES, ROOT, SHOP
from tests.support.certificates import Authority
from tests.support.redis_server import redis_servers

# Also print how many authorities each connection trusts.
_SEND = """
import gc, ssl, shop
print(shop.add.delay(2, 3).get(timeout=60))
print({len(one.get_ca_certs()) for one in gc.get_objects() if isinstance(one, ssl.SSLContext)})
"""


class Mutual:
    """A broker and a result store, with a host's certificates and credentials."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports: dict[str, int] = {}
        self.pki = directory / "pki"
        self.pki.mkdir()
        authority = Authority("fleet")
        authority.install(self.pki, "IP:127.0.0.1")
        certificate, key = authority.issue([], purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])
        (self.pki / "client.crt").write_text(certificate)
        (self.pki / "client.key").write_text(key)
        (directory / "shop.py").write_text(SHOP)

    def settings(self, component: str, pki: Path | None = None) -> dict[str, Any]:
        """Return settings as the roles write them."""
        address = {kind: {"host": "127.0.0.1", "port": port} for kind, port in self.ports.items()}
        place = pki or self.pki
        return desired_settings.process_settings(
            facts(
                **address,
                redis_ca=str(self.pki / "ca.crt"),
                routes={"shop.*": {"queue": "mail"}},
                client={"certificate": f"{place}/client.crt", "key": f"{place}/client.key"},
            ),
            component,
            PASSWORDS[component],
        )

    def environment(self, component: str) -> dict[str, str]:
        """Return the environment of a unit whose process can't read the files in the settings."""
        credentials = self.directory / f"credentials-{component}"
        credentials.mkdir()
        text = json.dumps(self.settings(component, Path("/root-alone")))
        (credentials / "settings.json").write_text(text)
        for name in ("client.crt", "client.key"):
            shutil.copy(self.pki / name, credentials)
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_FLEET_COMPONENT": component,
            "CREDENTIALS_DIRECTORY": str(credentials),
            "CELERY_APP": "shop",
        }

    def refusal(self, kind: str) -> str:
        """Return how a server refuses a client that has a certificate, but no password."""
        files = {"ca": "ca.crt", "certificate": "client.crt", "key": "client.key"}
        shown = {name: str(self.pki / file) for name, file in files.items()}
        with (
            Client(Server("127.0.0.1", self.ports[kind], **shown)) as client,
            pytest.raises(ClientError) as error,
        ):
            client.ask("PING")
        return str(error.value)

    def ask(self, module: str, request: dict[str, Any]) -> dict[str, Any]:
        """Run one of our modules as root, which changes to another user, as a run of a playbook does."""
        line = (
            f"env PYTHONPATH={ROOT}/src {shlex.quote(sys.executable)} -m celery_fleet.ops.{module}"
        )
        done = subprocess.run(
            ["/bin/sh", "-c", host_scripts.with_identity(line, request["settings"])],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture
def mutual(tmp_path: Path) -> Iterator[Mutual]:
    made = Mutual(tmp_path)
    users = {kind: acl.acl(kind, PASSWORDS, QUEUES) for kind in ("broker", "results")}
    with (
        redis_servers(tmp_path, users, "--tls-auth-clients", "yes", tls=made.pki) as servers,
        ExitStack() as stack,
    ):
        made.ports = {kind: server.tls_port for kind, server in servers.items()}
        for kind in servers:
            assert made.refusal(kind).startswith("NOAUTH")
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "worker", "--hostname", NODE),
                    *("--queues", "mail", "--pool", "prefork", "--concurrency", "1"),
                ],
                cwd=tmp_path,
                env=made.environment("worker"),
                stdout=log,
                stderr=log,
            )
        stack.callback(worker.wait, 30)
        stack.callback(worker.terminate)
        yield made


@pytest.mark.slow
def test_every_client_shows_a_certificate(mutual: Mutual) -> None:
    """The worker, whose pool's processes save results, and the sender: both use the credential."""
    done = subprocess.run(
        [sys.executable, "-c", _SEND],
        cwd=mutual.directory,
        env=mutual.environment("producer"),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout == "5\n{1}\n", done.stderr + (mutual.directory / "worker.log").read_text()

    # Questions of a playbook's run, of `celery-fleet` and of the health check.
    settings = mutual.settings("operator")
    probed = mutual.ask("probe", {"settings": settings, "nodes": {NODE: {"queues": ["mail"]}}})
    assert probed["nodes"][NODE]["ok"], probed
    question = {"question": "inspect", "method": "ping", "nodes": [NODE], "wait": 5, "timeout": 20}
    sent = client_certificate.carried(settings)
    answer = mutual.ask("questions", {**question, "settings": sent})
    assert answer["ok"], answer
    # Without a certificate there is no answer.
    bare = {**settings, "celery": dict(settings["celery"])}
    for name in client_certificate.TLS_SETTINGS:
        tls = settings["celery"][name]
        bare["celery"][name] = {"ssl_ca_certs": tls["ssl_ca_certs"], "ssl_cert_reqs": "required"}
    answer = mutual.ask("questions", {**question, "settings": bare})
    assert not answer["ok"]
