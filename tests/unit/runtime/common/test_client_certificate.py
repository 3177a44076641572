"""The certificate that a process shows to Redis: a credential, or a copy in memory if root has sent it."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.common import client_certificate
from celery_fleet.config.settings import parse
from tests.support.certificates import Authority
from tests.unit.runtime.conftest import document

NAMES = ("broker_use_ssl", "redis_backend_use_ssl")


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    """Options that name both files."""
    for name, text in zip(
        ("host.crt", "host.key"), Authority("fleet").issue(["DNS:h"]), strict=True
    ):
        (tmp_path / name).write_text(text)
    return {"ssl_certfile": f"{tmp_path}/host.crt", "ssl_keyfile": f"{tmp_path}/host.key"}


def settings(pair: dict[str, str]) -> dict[str, Any]:
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.crt", **pair}
    return document(**dict.fromkeys(NAMES, tls))


def test_a_process_of_the_fleet_gets_both_as_credentials(
    pair: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    # Paths of the inventory without a credential stay.
    assert parse(settings(pair), "f").celery["broker_use_ssl"] == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": "/ca.crt",
        **pair,
    }
    for name in ("host.crt", "host.key"):
        (directory / name).touch()
    found = parse(settings(pair), "f").celery
    for name in NAMES:
        assert found[name]["ssl_certfile"] == f"{directory}/host.crt"
        assert found[name]["ssl_keyfile"] == f"{directory}/host.key"
        assert found[name]["ssl_ca_certs"] == "/ca.crt"


def test_a_process_that_can_not_read_them_gets_their_text(
    pair: dict[str, str], tmp_path: Path
) -> None:
    whole = settings(pair)
    sent = client_certificate.carried(whole)
    assert whole == settings(pair)
    for name in ("host.crt", "host.key"):
        (tmp_path / name).unlink()
    options = parse(json.loads(json.dumps(sent)), "f").celery["broker_use_ssl"]
    context = ssl.create_default_context()
    # This works for each connection, also in a child process.
    for _ in range(2):
        context.load_cert_chain(options["ssl_certfile"], options["ssl_keyfile"])
    code = f"import os, sys; sys.exit(os.path.exists({options['ssl_keyfile']!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(FileNotFoundError):
        client_certificate.carried(whole)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"celery": None},
        {"celery": {"broker_use_ssl": None}},
        {"celery": {"broker_use_ssl": True}},
        {"celery": {"broker_use_ssl": {"ssl_ca_certs": "/ca.crt", "ssl_keyfile": None}}},
    ],
)
def test_settings_without_certificates_are_not_changed(odd: dict[str, Any]) -> None:
    assert client_certificate.files(odd) == []
    assert client_certificate.carried(odd) == odd
