"""Whether a host's certificate can stay, or must be made again."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.chain import certificate_serves
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.x509 import CertificateError

from tests.support.certificates import Authority

NAMES = ["DNS:redis1", "IP:10.0.0.1", "IP:fd00::1"]
AUTHORITY = Authority("fleet")


def serves(issued: tuple[str, str], names: list[str] | None = None, days: float = 30) -> bool:
    pem, key = issued
    return certificate_serves(pem, names or NAMES, AUTHORITY.pem, days, key)


def test_a_valid_certificate_stays() -> None:
    issued = AUTHORITY.issue(NAMES)
    assert serves(issued)
    assert serves(issued, list(reversed(NAMES)))


@pytest.mark.parametrize("names", [["DNS:redis1"], [*NAMES, "DNS:more"], ["DNS:other"]])
def test_a_certificate_for_other_names_is_replaced(names: list[str]) -> None:
    assert not serves(AUTHORITY.issue(NAMES), names)


def test_a_certificate_without_alternative_names_is_replaced() -> None:
    assert not serves(AUTHORITY.issue([]))


def test_a_certificate_that_expires_is_replaced() -> None:
    issued = AUTHORITY.issue(NAMES, days=29)
    assert not serves(issued)
    assert serves(issued, days=28)
    assert not serves(AUTHORITY.issue(NAMES, days=-0.5), days=0)


def test_a_certificate_of_another_authority_with_the_same_name_is_replaced() -> None:
    for name in ("other", "fleet"):
        assert not serves(Authority(name).issue(NAMES))


def test_a_certificate_of_another_key_is_replaced() -> None:
    pem, _ = AUTHORITY.issue(NAMES)
    _, key = AUTHORITY.issue(NAMES)
    assert not serves((pem, key))


def test_a_malformed_certificate_is_an_error() -> None:
    with pytest.raises(CertificateError, match="no certificate"):
        serves(("no certificate", AUTHORITY.issue(NAMES)[1]))
