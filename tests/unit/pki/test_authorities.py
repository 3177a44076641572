"""Certificates: what hosts should get, what is refused, and how one authority takes over from another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import chain as pki_chain
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import faults as pki_faults
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import openssl as pki_openssl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import records, rollover, wanted
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import x509 as pki_x509
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.wanted import PkiVariables
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.capacity import (
    demands,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.certificates import (
    check_client_keys,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.reachability import (
    check_facts,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    Severity,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.certificates import Authority, text_of
from tests.unit.preflight.inventory import GROUPS, model, problems, secret, valid

ROOT = Authority("corporate root")
SIGNING = Authority("fleet signing", above=ROOT)
OTHER = Authority("another root")
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
HOST = "worker1"
# The passphrase of the valid inventory.
PASSPHRASE = secret(10)
USAGES = {"serverAuth": SERVER, "clientAuth": CLIENT}
# In two parts, because a test checks that no file of the project has a key.
BEGIN = "-----BEGIN " + "PRIVATE KEY-----"
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505  # the test needs a weak key


def given(**changes: Any) -> PkiVariables:
    """Return a valid certificate from outside with some changes."""
    certificate, key = SIGNING.issue([f"DNS:{HOST}"])
    return replace(
        PkiVariables(
            source="external",
            mode="server",
            directory="/none",
            names=[HOST],
            ca_bundle=ROOT.pem,
            certificate=certificate,
            key=key,
            chain=SIGNING.pem,
        ),
        **changes,
    )


def refused(of: PkiVariables) -> list[tuple[str, str]]:
    return [(fault.variable, fault.message) for fault in pki_faults.faults(of)]


def refusal(of: PkiVariables) -> tuple[str, str]:
    found = refused(of)
    assert len(found) == 1, found
    return found[0]


def issued(**options: Any) -> dict[str, str]:
    certificate, key = SIGNING.issue(options.pop("names", [f"DNS:{HOST}"]), **options)
    return {"certificate": certificate, "key": key}


# --- from outside -------------------------------------------------------------------------------------------


def test_a_valid_certificate_is_accepted_with_its_chain_included_or_separate() -> None:
    apart = given()
    assert refused(apart) == []
    together = given(certificate=apart.certificate + SIGNING.pem, key=apart.key, chain="")
    assert refused(together) == []
    state = wanted.host_state(together, HOST)
    assert state == wanted.host_state(apart, HOST)
    assert state["bundle"] == ROOT.pem
    assert state["chain"] == apart.certificate + SIGNING.pem
    assert (state["key"], state["issue"]) == (apart.key, [])
    assert (state["client_chain"], state["client_key"]) == ("", "")


@pytest.mark.parametrize(
    ("change", "variable", "words"),
    [
        (issued(days=-0.5), "pki_certificate", "'host', which expired on"),
        (issued(begins=2), "pki_certificate", "'host', which is not valid before"),
        (issued(names=["DNS:worker2"]), "pki_certificate", "is for worker2, not for worker1"),
        (issued(names=[]), "pki_certificate", "is for no name at all, not for worker1"),
        ({"key": issued()["key"]}, "pki_key", "is not the key of 'host'"),
        ({"ca_bundle": OTHER.pem}, "pki_certificate", "lacks its chain: 'fleet signing' is signed"),
        ({"ca_bundle": OTHER.pem, "chain": SIGNING.pem + ROOT.pem}, "pki_certificate",
         "leads to 'corporate root', which is not in pki_ca_bundle"),
        ({"ca_bundle": Authority("corporate root").pem}, "pki_certificate", "has another key"),
        ({"chain": ""}, "pki_certificate", "lacks its chain: 'host' is signed by 'fleet signing'"),
        ({"chain": OTHER.pem}, "pki_certificate", "lacks its chain"),
        ({"ca_bundle": ROOT.pem + issued()["certificate"]}, "pki_ca_bundle", "is not the certificate of an auth"),
        (issued(key=WEAK), "pki_certificate", "EE certificate key too weak (CN=host)"),
        (issued(key=ec.generate_private_key(ec.SECP192R1())), "pki_certificate", "key too weak (CN=host)"),
        (issued(purposes=[CLIENT]), "pki_certificate", "for servers: unsuitable certificate purpose (CN=host)"),
        ({"certificate": "/etc/ssl/host.crt"}, "pki_certificate", "no certificate in PEM form"),
        ({"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
         "pki_certificate", "has a broken certificate"),
        ({"key": "/etc/ssl/host.key"}, "pki_key", "no key in PEM form"),
        ({"key": text_of(SIGNING.key, "open sesame")}, "pki_key", "is encrypted"),
        ({"key": f"{BEGIN}\nAAAA\n{BEGIN.replace('BEGIN', 'END')}\n"}, "pki_key",
         "is not a private key"),
        ({"chain": "none"}, "pki_chain", "no certificate in PEM form"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_a_remedy(
    change: dict[str, Any], variable: str, words: str
) -> None:
    found = [fault for fault in pki_faults.faults(given(**change)) if words in fault.message]
    assert [fault.variable for fault in found] == [variable], refused(given(**change))
    assert found[0].remedy
    if variable != "pki_chain":
        refusal(given(**change))


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = given(**issued(names=["DNS:x"], days=-0.5), chain="", mode="mutual")
    assert len(refused(replace(wrong, key="none"))) == 4


def test_an_authority_that_may_not_sign_is_refused() -> None:
    """Here a host's certificate is given as authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf, _ = ROOT.issue(["DNS:x"], key=key)
    middle = x509.load_pem_x509_certificate(leaf.encode())
    now = datetime.now(UTC)
    host = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "under it")]))
        .issuer_name(middle.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    text = host.public_bytes(serialization.Encoding.PEM).decode()
    wrong = given(certificate=text, key=text_of(key), chain=leaf)
    assert "invalid CA certificate (CN=host)" in refusal(wrong)[1]


def openssl(directory: Path, *words: str) -> None:
    """Run openssl, for certificates that the library no longer makes."""
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, timeout=60)


def made_by_openssl(directory: Path, *how: str) -> tuple[str, str]:
    """Return a certificate that signs itself, and its key."""
    request = ["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=odd", "-out", "x.crt"]
    names = ["-addext", f"subjectAltName=DNS:{HOST}"]
    openssl(directory, *request, *names, "-keyout", "x.key", "-newkey", *how)
    return (directory / "x.crt").read_text(), (directory / "x.key").read_text()


def test_a_key_of_an_unknown_kind_is_refused_without_a_traceback(tmp_path: Path) -> None:
    certificate, key = made_by_openssl(tmp_path, "ec", "-pkeyopt", "ec_paramgen_curve:prime239v1")
    for of, variable in (
        (
            given(certificate=certificate, key=key, chain="", ca_bundle=certificate),
            "pki_certificate",
        ),
        (intermediate(ca_certificate=certificate, ca_key=key), "pki_ca_certificate"),
    ):
        found = [words for name, words in refused(of) if name == variable]
        assert "has 'odd' with a kind of key that is not supported" in found
    # It does no harm in addition to others.
    assert refused(given(ca_bundle=ROOT.pem + certificate)) == []
    assert refused(given(chain=certificate + SIGNING.pem)) == []


def test_only_a_roots_own_signature_may_use_sha1(tmp_path: Path) -> None:
    root, key = made_by_openssl(tmp_path, "rsa:2048", "-sha1", "-addext", "keyUsage=keyCertSign")
    (tmp_path / "names").write_text(f"subjectAltName=DNS:{HOST}")
    sign = ["x509", "-req", "-CA", "x.crt", "-CAkey", "x.key", "-days", "9", "-extfile", "names"]
    openssl(tmp_path, "req", "-new", "-key", "x.key", "-subj", "/CN=host", "-out", "h.csr")
    for how in ("-sha256", "-sha1"):
        openssl(tmp_path, *sign, "-in", "h.csr", how, "-out", "h.crt")
        host = (tmp_path / "h.crt").read_text()
        for chain in ("", root):
            found = refused(given(certificate=host, key=key, chain=chain, ca_bundle=root))
            words = "CA signature digest algorithm too weak (CN=host)"
            said = f"is refused by OpenSSL for servers: {words}"
            assert found == ([] if how == "-sha256" else [("pki_certificate", said)])


def test_a_root_with_a_weak_key_is_refused() -> None:
    root = Authority("corporate root", key=WEAK)
    certificate, key = root.issue([f"DNS:{HOST}"])
    of = given(certificate=certificate, key=key, chain="", ca_bundle=root.pem)
    assert refusal(of) == (
        "pki_certificate",
        "is refused by OpenSSL for servers: CA certificate key too weak (CN=corporate root)",
    )
    # An authority that signed none of the certificates does no harm.
    assert refused(given(ca_bundle=ROOT.pem + root.pem)) == []


def test_authorities_that_signed_each_other_are_no_chain() -> None:
    one, two = Authority("one"), Authority("two")
    crossed = one.signed_by(two) + two.signed_by(one)
    certificate, key = one.issue([f"DNS:{HOST}"])
    variable, words = refusal(given(certificate=certificate, key=key, chain=crossed))
    assert (variable, words.partition(":")[0]) == ("pki_certificate", "lacks its chain")


def test_an_authority_that_has_ended_is_refused() -> None:
    root = Authority("old", days=-0.5)
    certificate, key = root.issue([f"DNS:{HOST}"])
    wrong = given(certificate=certificate, key=key, chain="", ca_bundle=root.pem)
    assert refusal(wrong)[0] == "pki_ca_bundle"
    # An authority that is only additional is not checked.
    assert refused(given(ca_bundle=ROOT.pem + root.pem)) == []


def test_certificates_of_clients_must_be_for_clients() -> None:
    wrong = refusal(given(**issued(purposes=[SERVER]), mode="mutual"))
    assert "OpenSSL for clients: unsuitable certificate purpose (CN=host)" in wrong[1]
    assert refused(given(**issued(purposes=[SERVER]))) == []
    assert refused(given(**issued(purposes=[SERVER, CLIENT]), mode="mutual")) == []
    assert refused(given(mode="mutual")) == []


def test_clients_may_have_their_own_certificate_from_outside() -> None:
    certificate, key = OTHER.issue([], purposes=[CLIENT])
    of = given(client_certificate=certificate, client_key=key, mode="mutual")
    assert refusal(of)[0] == "pki_client_certificate"
    assert "lacks its chain" in refusal(of)[1]
    both = ROOT.pem + OTHER.pem
    trusted = replace(of, ca_bundle=both)
    assert refused(trusted) == []
    state = wanted.host_state(trusted, HOST)
    assert state["client_chain"] == certificate + SIGNING.pem
    assert (state["chain"], state["client_key"]) == (of.certificate + SIGNING.pem, key)
    # Without one, they show the host's.
    shared = wanted.host_state(given(mode="mutual"), HOST)
    assert (shared["client_chain"], shared["client_key"]) == (shared["chain"], shared["key"])

    assert refusal(replace(trusted, client_key="")) == (
        "pki_client_key",
        "is not the key of 'host', which is in pki_client_certificate",
    )
    host = refused(replace(trusted, client_certificate=of.certificate))
    assert [name for name, _ in host] == ["pki_client_key", "pki_client_certificate"]
    server, key = SIGNING.issue([], purposes=[SERVER])
    wrong = refusal(replace(trusted, client_certificate=server, client_key=key))
    assert "OpenSSL for clients: unsuitable certificate purpose" in wrong[1]
    (fault,) = pki_faults.faults(replace(trusted, client_certificate=server, client_key=key))
    assert fault.remedy == "have it made again for clients only (clientAuth, digitalSignature)"
    # With these the application could pretend to be a server.
    for name, words in ((HOST, "is also for servers with this host's names"), ("else", "")):
        both, key = SIGNING.issue([f"DNS:{name}"], purposes=[SERVER, CLIENT])
        found = refused(replace(trusted, client_certificate=both, client_key=key))
        assert [words in message for _, message in found] == [True] * bool(words)
    shared = serialization.load_pem_private_key(of.key.encode(), None)
    assert isinstance(shared, ec.EllipticCurvePrivateKey)
    same, key = SIGNING.issue([], key=shared, purposes=[CLIENT])
    wrong = refusal(replace(trusted, client_certificate=same, client_key=key))
    assert "has the key of pki_certificate" in wrong[1]
    ended, key = OTHER.issue([], days=-0.5)
    assert (
        "which expired on" in refusal(replace(trusted, client_certificate=ended, client_key=key))[1]
    )
    # Redis does not ask for it.
    assert refused(replace(of, mode="server")) == []


def test_an_authority_stays_while_clients_show_its_certificates(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    certificate, key = OTHER.issue([], 20, purposes=[CLIENT])
    of = given(client_certificate=certificate, client_key=key, mode="mutual")
    of = replace(of, directory=str(tmp_path), ca_bundle=ROOT.pem + OTHER.pem)
    (fault,) = rollover.ending(of, HOST, days=90)
    assert (fault.variable, fault.message[:10]) == ("pki_client_certificate", "expires on")
    text = records.record_text(wanted.host_state(of, HOST), True)
    records.record_path(str(tmp_path), HOST).write_text(text)
    assert rollover.rollover_faults({HOST: of}) == []
    same = replace(of, client_certificate="", client_key="", ca_bundle=ROOT.pem)
    ((_, fault),) = rollover.rollover_faults({HOST: same})
    assert "leaves out the authority of the certificates that worker1 still shows" in fault.message
    again = replace(same, ca_bundle=ROOT.pem + OTHER.pem)
    assert rollover.rollover_faults({HOST: again}) == []
    # Another authority's certificate for clients comes after the authority itself.
    text = records.record_text(wanted.host_state(same, HOST), True)
    records.record_path(str(tmp_path), HOST).write_text(text)
    ((_, fault),) = rollover.rollover_faults({HOST: of})
    assert "brings certificates that worker1 does not trust yet" in fault.message


def test_wildcards_and_addresses_count_as_names() -> None:
    star = issued(names=["DNS:*.shop.example", "IP:192.0.2.7"])
    assert refused(given(**star, names=["w1.shop.example", "192.0.2.7"])) == []
    assert "not for a.b.shop.example" in refusal(given(**star, names=["a.b.shop.example"]))[1]
    assert "not for 192.0.2.8" in refusal(given(**star, names=["192.0.2.8"]))[1]


# --- a user's intermediate authority --------------------------------------------------------------------------


def intermediate(**changes: Any) -> PkiVariables:
    return replace(
        given(),
        **{
            "source": "intermediate",
            "ca_certificate": SIGNING.pem,
            "ca_key": text_of(SIGNING.key, "open sesame"),
            "ca_passphrase": "open sesame",
            "certificate": "",
            "key": "",
            "chain": "",
            **changes,
        },
    )


def test_a_valid_intermediate_is_accepted() -> None:
    assert refused(intermediate()) == []
    assert refused(intermediate(ca_key=text_of(SIGNING.key))) == []
    assert refused(intermediate(ca_key=text_of(SIGNING.key), ca_passphrase="")) == []
    other = Authority("fleet signing", above=ROOT, key=ed25519.Ed25519PrivateKey.generate())
    assert refused(intermediate(ca_certificate=other.pem, ca_key=text_of(other.key))) == []


def test_a_machine_without_openssl_is_told_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (fault,) = pki_faults.faults(given())
    assert fault.message == "can't be checked: this machine has no program openssl"
    assert pki_openssl.not_strict(given()) == []


@pytest.mark.parametrize(
    ("change", "variable", "words"),
    [
        ({"ca_certificate": issued()["certificate"] + SIGNING.pem, "ca_key": text_of(SIGNING.key)},
         "pki_ca_certificate", "may not sign others"),
        ({"ca_passphrase": "open says me"}, "pki_ca_key", "can't be decrypted with its passphrase"),
        ({"ca_passphrase": ""}, "pki_ca_key", "is encrypted"),
        ({"ca_key": text_of(OTHER.key)}, "pki_ca_key", "is not the key of 'fleet signing'"),
        ({"ca_bundle": OTHER.pem}, "pki_ca_certificate", "lacks its chain"),
        ({"ca_bundle": SIGNING.pem}, "pki_ca_certificate", "lacks its chain"),
    ],
)  # fmt: skip
def test_an_invalid_intermediate_is_refused(
    change: dict[str, Any], variable: str, words: str
) -> None:
    found = refused(intermediate(**change))
    assert any(name == variable and words in message for name, message in found), found


def test_a_host_of_an_intermediate_shows_its_chain(tmp_path: Path) -> None:
    of = intermediate(directory=str(tmp_path), names=[HOST])
    assert wanted.host_state(of, HOST)["issue"]
    (tmp_path / "hosts").mkdir()
    certificate, key = SIGNING.issue([f"DNS:{HOST}"])
    (tmp_path / f"hosts/{HOST}.crt").write_text(certificate)
    (tmp_path / f"hosts/{HOST}.key").write_text(key)
    state = wanted.host_state(of, HOST)
    assert not state["issue"]
    assert state["chain"] == certificate + SIGNING.pem
    assert pki_chain.is_trusted(state["chain"], ROOT.pem)
    # A new intermediate under the same root.
    new = intermediate(directory=str(tmp_path), ca_certificate=Authority("new", above=ROOT).pem)
    assert wanted.host_state(new, HOST)["issue"]


def test_keys_that_are_older_than_a_moment_are_made_again(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    # It has been valid for a day.
    certificate, key = SIGNING.issue([f"DNS:{HOST}"])
    (tmp_path / f"hosts/{HOST}.crt").write_text(certificate)
    (tmp_path / f"hosts/{HOST}.key").write_text(key)
    of = intermediate(directory=str(tmp_path), names=[HOST])
    for days, is_old in ((0, True), (2, False)):
        when = datetime.now(UTC) - timedelta(days=days)
        texts = (when.isoformat(), when.replace(tzinfo=None).isoformat(" ", "minutes"))
        # YAML reads the latter two without quotes. A day means its beginning, so tomorrow is surely later.
        day = (when + timedelta(days=is_old)).date()
        for text in (*texts, when, day):
            state = wanted.host_state(replace(of, renew_older_than=text), HOST)
            assert [due["rotate"] for due in state["issue"]] == [True] * is_old
            assert (state["key"] is None) == is_old


@pytest.mark.parametrize(
    ("text", "words"),
    [("yesterday", "is not a time"), ("2999-01-01T00:00", "is in the future"), ("2026-11-25", "")],
)
def test_such_a_moment_has_passed(tmp_path: Path, text: str, words: str) -> None:
    variables = {**valid(tmp_path / "source"), "pki_renew_older_than": text}
    found = [one.message for one in problems(variables) if one.variable == "pki_renew_older_than"]
    assert [words in message for message in found] == [True] * bool(words)


# --- own authorities ----------------------------------------------------------------------------------------


class Fleet:
    """The directory of a fleet's own authorities, and the effect of runs on it."""

    def __init__(self, directory: Path, hosts: tuple[str, ...] = ("redis1", "worker1")) -> None:
        self.directory = directory
        self.hosts = hosts
        self.authorities: dict[int, Authority] = {}
        (directory / "hosts").mkdir()
        (directory / "clients").mkdir()

    def put(self, number: int, authority: Authority, passphrase: str = PASSPHRASE) -> None:
        """Write an authority's files."""
        self.authorities[number] = authority
        directory = str(self.directory)
        wanted.authority_certificate(directory, number).write_text(authority.pem)
        text = text_of(authority.key, passphrase)
        wanted.authority_key(directory, number).write_text(text)

    def given(self, **changes: Any) -> PkiVariables:
        own = PkiVariables(
            source="own", mode="server", directory=str(self.directory), ca_passphrase=PASSPHRASE
        )
        return replace(own, **changes)

    def inventory(self, **changes: Any) -> dict[str, PkiVariables]:
        return {host: self.given(names=[host], **changes) for host in self.hosts}

    def refused(self, **changes: Any) -> list[str]:
        found = rollover.rollover_faults(self.inventory(**changes))
        return [
            f"{host}: {fault.variable} {fault.message}; {fault.remedy}" for host, fault in found
        ]

    def run(
        self, hosts: tuple[str, ...] | None = None, record: bool = True, **changes: Any
    ) -> None:
        """Do what the role does in a run."""
        assert self.refused(**changes) == []
        for host in hosts or self.hosts:
            of = self.inventory(**changes)[host]
            for number in of.generations:
                if number not in self.authorities:
                    self.put(number, Authority(f"own {number}"))
            for due in wanted.host_state(of, host)["issue"]:
                purposes = [USAGES[usage] for usage in due["usages"]]
                signer = self.authorities[of.ca_generation]
                certificate, key = signer.issue(due["names"], 397, purposes=purposes)
                Path(due["path"] + ".crt").write_text(certificate)
                Path(due["path"] + ".key").write_text(key)
            state = wanted.host_state(of, host)
            assert not state["issue"]
            assert pki_chain.is_trusted(state["chain"], state["bundle"])
            if of.clients:
                assert pki_chain.is_trusted(state["client_chain"], state["bundle"])
            if record:
                text = records.record_text(state, of.clients)
                records.record_path(of.directory, host).write_text(text)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_three_runs_bring_a_new_authority(fleet: Fleet) -> None:
    fleet.run()
    fleet.run(ca_trusted_generations=[2])
    before = (fleet.directory / "hosts/redis1.crt").read_text()
    assert (
        len(
            pki_x509.certificates(
                wanted.host_state(fleet.given(ca_trusted_generations=[2]), "redis1")["bundle"]
            )
        )
        == 2
    )
    fleet.run(ca_generation=2, ca_trusted_generations=[1])
    assert (fleet.directory / "hosts/redis1.crt").read_text() != before
    fleet.run(ca_generation=2)
    state = wanted.host_state(fleet.given(ca_generation=2, names=["redis1"]), "redis1")
    assert state["bundle"] == fleet.authorities[2].pem
    # The same works for a third authority.
    fleet.run(ca_generation=2, ca_trusted_generations=[3])
    fleet.run(ca_generation=3, ca_trusted_generations=[2])


def test_a_skipped_step_is_refused(fleet: Fleet) -> None:
    fleet.run()
    found = fleet.refused(ca_generation=2)
    assert any("pki_ca_generation brings certificates" in line for line in found)
    assert any("pki_ca_trusted_generations leaves out" in line for line in found)
    found = fleet.refused(ca_generation=2, ca_trusted_generations=[1])
    assert all("redis1, worker1 do not trust yet" in line for line in found)
    assert all("pki_ca_trusted_generations: [2]" in line for line in found)
    assert len(found) == 2
    fleet.run(ca_trusted_generations=[2])
    found = fleet.refused(ca_generation=2)
    assert len(found) == 2
    assert all("redis1, worker1 still show" in line for line in found)
    assert all(line.endswith("pki_ca_trusted_generations: [1]") for line in found)


def test_a_change_waits_for_hosts_that_a_run_left_out(fleet: Fleet) -> None:
    fleet.run()
    fleet.run(("redis1",), ca_trusted_generations=[2])
    assert all(
        "worker1 does not trust yet" in line
        for line in fleet.refused(ca_generation=2, ca_trusted_generations=[1])
    )
    fleet.run(("worker1",), ca_trusted_generations=[2])
    fleet.run(("redis1",), ca_generation=2, ca_trusted_generations=[1])
    assert ["worker1 still shows" in line for line in fleet.refused(ca_generation=2)] == [True] * 2
    # Going back works while both are trusted.
    fleet.run(ca_trusted_generations=[2])


def test_an_incomplete_run_does_not_count(fleet: Fleet) -> None:
    fleet.run()
    fleet.run(record=False, ca_trusted_generations=[2])
    assert fleet.refused(ca_generation=2, ca_trusted_generations=[1])


def test_fleets_without_records_can_change_their_authority(fleet: Fleet) -> None:
    fleet.run(record=False)
    assert fleet.refused(ca_generation=2, ca_trusted_generations=[1])
    fleet.run(ca_trusted_generations=[2])
    fleet.run(ca_generation=2, ca_trusted_generations=[1])


def test_a_new_host_trusts_both_authorities_from_the_start(fleet: Fleet) -> None:
    fleet.run()
    fleet.run(ca_trusted_generations=[2])
    fleet.hosts = (*fleet.hosts, "worker2")
    fleet.run(ca_generation=2, ca_trusted_generations=[1])


def test_users_authorities_can_replace_the_fleets_and_back(fleet: Fleet) -> None:
    fleet.run()
    outside = {
        host: given(directory=str(fleet.directory), names=[host], **issued(names=[f"DNS:{host}"]))
        for host in fleet.hosts
    }
    assert len(rollover.rollover_faults(outside)) == 4
    fleet.run(ca_bundle=ROOT.pem)
    own = fleet.authorities[1].pem
    both = {host: replace(of, ca_bundle=ROOT.pem + own) for host, of in outside.items()}
    assert rollover.rollover_faults(both) == []
    assert {fault.variable for _, fault in rollover.rollover_faults(outside)} == {"pki_ca_bundle"}


def test_a_lost_authority_is_not_created_again(fleet: Fleet) -> None:
    fleet.run()
    (fleet.directory / "ca.crt").unlink()
    (fleet.directory / "ca.key").unlink()
    found = fleet.refused()
    assert ["no longer has any of the fleet's own authorities" in line for line in found] == [
        True,
        True,
    ]
    # Another checkout has no record of it; only the hosts have.
    shutil.rmtree(fleet.directory / "hosts")
    assert fleet.refused() == []


def shown_by(fleet: Fleet, host: str = "redis1") -> str:
    """Return a host's certificates after a run."""
    record = records.read_record(str(fleet.directory), host)
    assert record is not None
    return record.chain


def test_a_checkout_without_the_authority_creates_no_other_one(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.run()
    shown = shown_by(fleet)
    assert rollover.stranger(shown, str(fleet.directory)) is None
    for words in ("has no authority, so it lacks", "lacks"):
        fault = rollover.stranger(shown, str(tmp_path / "pki"))
        assert fault is not None
        assert fault.variable == "pki_directory"
        assert f"{words} the authority of this host's certificate, 'own 1'" in fault.message
        assert f"copy all of {tmp_path}/pki from the checkout" in fault.remedy
        # A later run has created another authority of this name for a new host.
        (tmp_path / "pki").mkdir(exist_ok=True)
        (tmp_path / "pki/ca.crt").write_text(Authority("own 1").pem)
    # A file that is not a certificate does not hide the others. The lost authority is recognised under any file name.
    (tmp_path / "pki/broken.crt").write_text("broken")
    (tmp_path / "pki/directory.crt").mkdir()
    assert rollover.stranger(shown, str(tmp_path / "pki"))
    (tmp_path / "pki/lost.crt").write_text(fleet.authorities[1].pem)
    assert rollover.stranger(shown, str(tmp_path / "pki")) is None


def test_an_old_copy_of_the_authorities_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    fleet.run()
    copy = tmp_path / "copy"
    shutil.copytree(fleet.directory, copy)
    fleet.run(ca_trusted_generations=[2])
    assert rollover.stranger(shown_by(fleet), str(copy)) is None
    fleet.run(ca_generation=2, ca_trusted_generations=[1])
    fault = rollover.stranger(shown_by(fleet), str(copy))
    assert fault is not None
    assert "lacks the authority" in fault.message
    assert rollover.stranger(shown_by(fleet), str(fleet.directory)) is None


def test_a_host_without_a_certificate_has_no_foreign_authority(tmp_path: Path) -> None:
    for shown in ("", "broken"):
        assert rollover.stranger(shown, str(tmp_path)) is None


def test_a_trusted_authority_of_a_user_is_not_foreign(tmp_path: Path) -> None:
    shown = SIGNING.issue(["DNS:redis1"])[0] + SIGNING.pem
    assert rollover.stranger(shown, str(tmp_path / "pki"), ROOT.pem) is None
    assert rollover.stranger(shown, str(tmp_path / "pki"), OTHER.pem)


def test_a_stolen_key_is_replaced_at_once(fleet: Fleet) -> None:
    fleet.run()
    shown = shown_by(fleet)
    assert fleet.refused(ca_generation=2)
    shutil.rmtree(fleet.directory / "hosts")
    (fleet.directory / "hosts").mkdir()
    assert rollover.stranger(shown, str(fleet.directory)) is None
    fleet.run(ca_generation=2)


def test_an_authority_without_its_key_signs_nothing(fleet: Fleet) -> None:
    fleet.run()
    (fleet.directory / "ca.key").unlink()
    assert "ca.crt without its ca.key" in refusal(fleet.given())[1]
    # It is still trusted.
    assert refused(fleet.given(ca_generation=2, ca_trusted_generations=[1])) == []


def test_an_authority_with_the_wrong_passphrase_signs_nothing(fleet: Fleet) -> None:
    fleet.run()
    variable, words = refusal(fleet.given(ca_passphrase="another one"))
    assert (variable, words.endswith("/ca.key")) == ("pki_ca_passphrase", True)
    # This also holds if a run was interrupted before it wrote the certificate: the key is not overwritten.
    (fleet.directory / "ca.crt").unlink()
    assert refusal(fleet.given(ca_passphrase="another one"))[0] == "pki_ca_passphrase"
    assert refused(fleet.given()) == []


def test_an_authority_with_the_key_of_another_signs_nothing(fleet: Fleet) -> None:
    fleet.run()
    (fleet.directory / "ca.key").write_text(text_of(OTHER.key, PASSPHRASE))
    assert "ca.key that is not the key of 'own 1'" in refusal(fleet.given())[1]
    (fleet.directory / "ca.key").write_text("cut short")
    assert "ca.key which has no key" in refusal(fleet.given())[1]


def test_an_authority_with_an_unencrypted_key_is_refused(fleet: Fleet) -> None:
    fleet.put(1, Authority("own 1"), passphrase="")
    assert "ca.key that is not encrypted" in refusal(fleet.given())[1]


def test_a_file_that_is_no_authority_is_refused(fleet: Fleet) -> None:
    fleet.run()
    certificate, key = OTHER.issue(["DNS:x"])
    (fleet.directory / "ca.crt").write_text(certificate)
    (fleet.directory / "ca.key").write_text(key)
    assert any("ca.crt that may not sign others" in words for _, words in refused(fleet.given()))


def test_only_expiring_certificates_are_renewed(fleet: Fleet) -> None:
    fleet.run()
    certificate, key = fleet.authorities[1].issue(["DNS:redis1"], 29, purposes=[SERVER])
    (fleet.directory / "hosts/redis1.crt").write_text(certificate)
    (fleet.directory / "hosts/redis1.key").write_text(key)
    of = fleet.inventory()
    assert [len(wanted.host_state(of[host], host)["issue"]) for host in fleet.hosts] == [1, 0]
    assert not wanted.host_state(replace(of["redis1"], renew_before_days=28), "redis1")["issue"]


@pytest.mark.parametrize("suffix", ["crt", "key"])
def test_broken_files_are_made_again(fleet: Fleet, suffix: str) -> None:
    fleet.run()
    (fleet.directory / f"hosts/redis1.{suffix}").write_text("cut short")
    of = fleet.inventory()
    assert [len(wanted.host_state(of[host], host)["issue"]) for host in fleet.hosts] == [1, 0]
    assert fleet.refused() == []


def test_clients_get_certificates_for_clients(fleet: Fleet) -> None:
    fleet.run()
    assert not records.everybody_shows_one(str(fleet.directory), fleet.hosts)
    host, clients = wanted.host_state(fleet.inventory(mode="mutual")["redis1"], "redis1")["issue"]
    assert host["usages"] == ["serverAuth", "clientAuth"]
    # It is not valid for a server.
    assert (clients["usages"], clients["names"]) == (["clientAuth"], [])
    fleet.run(("redis1",), mode="mutual")
    assert not records.everybody_shows_one(str(fleet.directory), fleet.hosts)
    fleet.run(mode="mutual")
    assert records.everybody_shows_one(str(fleet.directory), fleet.hosts)
    assert not records.everybody_shows_one(str(fleet.directory), (*fleet.hosts, "new"))
    assert not records.everybody_shows_one(str(fleet.directory), ())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', json.dumps({"format": 1, "bundle": ""})]
)
def test_a_broken_record_is_reported(fleet: Fleet, text: str) -> None:
    fleet.run()
    (fleet.directory / "hosts/redis1.json").write_text(text)
    assert "can't be read: " in " ".join(fleet.refused())
    assert "redis1.json" in " ".join(fleet.refused())


@pytest.mark.parametrize("kind", ["a directory", "forbidden"])
def test_an_authority_that_can_not_be_read_is_reported(
    fleet: Fleet, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a directory that belongs to the user who deployed first."""
    fleet.run()
    of = fleet.inventory()["redis1"]

    def forbidden(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    if kind == "forbidden":
        monkeypatch.setattr(Path, "stat", forbidden)
        monkeypatch.setattr(Path, "read_text", forbidden)
    else:
        (fleet.directory / "ca.crt").unlink()
        (fleet.directory / "ca.crt").mkdir()
    faults = list(pki_faults.faults(of))
    assert faults[0].variable == "pki_directory"
    assert faults[0].message.startswith("has a ca.crt which can't be read: ")
    assert "give the user who deploys permission to read it" in faults[0].remedy


def test_certificates_that_end_soon_are_reported(fleet: Fleet) -> None:
    fleet.put(1, Authority("own 1", days=80))
    fleet.run()
    of = fleet.inventory()["redis1"]
    (fault,) = rollover.ending(of, "redis1", days=90)
    assert (fault.variable, "'own 1', which expires on" in fault.message) == (
        "pki_ca_generation",
        True,
    )
    assert list(rollover.ending(of, "redis1", days=70)) == []
    outside = given(**issued(days=29))
    (fault,) = rollover.ending(outside, HOST, days=90)
    assert fault.variable == "pki_certificate"
    assert list(rollover.ending(replace(outside, renew_before_days=20), HOST, days=90)) == []


# --- as problems of an inventory ----------------------------------------------------------------------------


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    return {**valid(tmp_path / "source"), "pki_directory": str(tmp_path / "pki")}


def of_outside(**changes: Any) -> dict[str, dict[str, str]]:
    """Return the variables of each host."""
    found = {}
    for host in GROUPS["fleet"]:
        certificate, key = SIGNING.issue([f"DNS:{host}"])
        found[host] = {"pki_certificate": certificate + SIGNING.pem, "pki_key": key, **changes}
    return found


def outside(variables: dict[str, Any], **changes: Any) -> dict[str, Any]:
    del variables["pki_ca_passphrase"]
    return {**variables, "pki_source": "external", "pki_ca_bundle": ROOT.pem, **changes}


def about(found: list[Problem]) -> set[tuple[str, int]]:
    return {(problem.variable, len(problem.hosts)) for problem in found}


def test_an_inventory_with_certificates_from_outside_is_accepted(variables: dict[str, Any]) -> None:
    assert problems(outside(variables), hosts=of_outside()) == []


def test_clients_that_share_their_hosts_key_are_a_warning(variables: dict[str, Any]) -> None:
    everywhere = outside(variables, pki_mode="mutual")
    found = problems(everywhere, hosts=of_outside())
    assert {(one.variable, one.severity) for one in found} == {
        ("pki_client_certificate", Severity.WARNING)
    }
    # Hosts of workers serve nothing.
    assert {host for one in found for host in one.hosts} == {"redis1", "control1"}
    hosts = of_outside()
    for host in hosts.values():
        certificate, key = SIGNING.issue([], purposes=[CLIENT])
        host |= {
            "pki_client_certificate": certificate + SIGNING.pem,
            "pki_client_key": key,
        }
    assert problems(everywhere, hosts=hosts) == []


def test_clients_need_their_certificate_before_a_run_that_makes_none() -> None:
    asked = {"worker1": {"needs_client_key": True}, "worker2": {"needs_client_key": False}}
    without: dict[str, object] = {key: {"has_client_key": False} for key in asked}
    (found,) = check_client_keys(without, asked)
    assert (found.variable, found.hosts) == ("pki_mode", ("worker1",))
    # A host that can't be reached has no facts.
    for facts in ({"has_client_key": True}, {"reachable": False}, None):
        assert list(check_client_keys(dict.fromkeys(asked, facts), asked)) == []


def test_missing_variables_of_a_source_are_named(variables: dict[str, Any]) -> None:
    everywhere = outside(variables)
    del everywhere["pki_ca_bundle"]
    assert about(problems(everywhere)) == {
        ("pki_certificate", 4),
        ("pki_key", 4),
        ("pki_ca_bundle", 4),
    }
    everywhere |= {"pki_source": "intermediate"}
    assert about(problems(everywhere)) == {
        ("pki_ca_certificate", 4),
        ("pki_ca_key", 4),
        ("pki_ca_bundle", 4),
    }


def test_a_host_with_another_hosts_certificate_is_refused(variables: dict[str, Any]) -> None:
    hosts = of_outside()
    hosts["worker1"] = hosts["worker2"]
    (found,) = problems(outside(variables), hosts=hosts)
    assert (found.variable, found.hosts) == ("pki_certificate", ("worker1",))
    assert "is for worker2, not for worker1" in found.message


def test_no_key_is_ever_shown(variables: dict[str, Any]) -> None:
    for key in ("no key", f"{BEGIN}\nc2VjcmV0\n{BEGIN.replace('BEGIN', 'END')}"):
        found = problems(outside(dict(variables)), hosts=of_outside(pki_key=key))
        assert about(found) == {("pki_key", 4)}
        assert "c2VjcmV0" not in str(found)


def test_hosts_with_certificates_of_different_authorities_are_refused(
    variables: dict[str, Any],
) -> None:
    """This also holds before the first deploy."""
    certificate, key = OTHER.issue(["DNS:redis1"])
    redis = {
        "pki_source": "external",
        "pki_certificate": certificate,
        "pki_key": key,
        "pki_ca_bundle": OTHER.pem,
    }
    # The others have the fleet's own authority, which does not exist yet.
    (found,) = problems(variables, hosts={"redis1": redis})
    assert (found.variable, found.hosts) == ("pki_ca_bundle", tuple(GROUPS["fleet"][1:]))
    assert "lacks the authority of what redis1 shows" in found.message
    trusting = {**variables, "pki_ca_bundle": OTHER.pem}
    assert problems(trusting, hosts={"redis1": redis}) == []
    # Redis only asks clients for certificates with `mutual`.
    certificate, key = OTHER.issue(["DNS:redis1"], purposes=[SERVER, CLIENT])
    redis |= {"pki_certificate": certificate, "pki_key": key}
    (found, _) = problems({**trusting, "pki_mode": "mutual"}, hosts={"redis1": redis})
    assert (found.variable, found.hosts) == ("pki_ca_bundle", ("redis1",))
    assert "worker1, worker2, control1 show" in found.message


def test_generations_that_differ_between_hosts_are_refused(
    variables: dict[str, Any],
) -> None:
    (found,) = problems(variables, hosts={"redis1": {"pki_ca_generation": 2}})
    assert (found.variable, found.hosts) == (
        "pki_ca_trusted_generations",
        tuple(GROUPS["fleet"][1:]),
    )
    trusting = {**variables, "pki_ca_trusted_generations": [2]}
    assert problems(trusting, hosts={"redis1": {"pki_ca_generation": 2}}) == []


def test_a_change_of_authorities_is_checked_for_all_hosts(variables: dict[str, Any]) -> None:
    directory = Path(variables["pki_directory"])
    directory.mkdir()
    fleet = Fleet(directory, tuple(GROUPS["fleet"]))
    fleet.run()
    assert problems(variables) == []
    variables |= {"pki_ca_generation": 2, "pki_ca_trusted_generations": [1]}
    (found,) = problems(variables)
    assert (found.variable, found.hosts) == ("pki_ca_generation", tuple(GROUPS["fleet"]))


def test_hosts_are_asked_if_an_authority_of_the_fleet_signs(variables: dict[str, Any]) -> None:
    directory = Path(variables["pki_directory"])
    shown = OTHER.issue(["DNS:redis1"])[0] + OTHER.pem
    facts = {host: {"reachable": True, "certificate": shown} for host in ("redis1", "worker1")}
    del facts["worker1"]["certificate"]

    def refused(asked: dict[str, dict[str, object]]) -> list[tuple[str, tuple[str, ...]]]:
        problems = check_facts(facts, {}, asked=asked)
        return [(one.variable, one.hosts) for one in problems if one.variable.startswith("pki")]

    assert refused(demands(model(variables))) == [("pki_directory", ("redis1",))]
    assert str(directory) in str(demands(model(variables))["redis1"]["authorities"])
    assert refused(demands(model({**variables, "pki_ca_bundle": OTHER.pem}))) == []
    # Certificates from outside are compared with what hosts trust, on any control node.
    assert refused(demands(model(outside(variables), hosts=of_outside()))) == []


def test_an_authority_that_ends_soon_is_a_warning(variables: dict[str, Any]) -> None:
    directory = Path(variables["pki_directory"])
    directory.mkdir()
    fleet = Fleet(directory, tuple(GROUPS["fleet"]))
    fleet.put(1, Authority("own", days=50))
    fleet.run()
    (found,) = problems(variables)
    assert (found.severity, found.variable) == (Severity.WARNING, "pki_ca_generation")
    # `-e pki_ca_generation=1` is text, and is checked as well.
    (found,) = problems({**variables, "pki_ca_generation": "1"})
    assert (found.severity, found.variable) == (Severity.WARNING, "pki_ca_generation")


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"pki_source": "letsencrypt"}, "pki_source"),
        ({"pki_mode": "both"}, "pki_mode"),
        ({"pki_ca_generation": "two"}, "pki_ca_generation"),
        ({"pki_ca_generation": 0}, "pki_ca_generation"),
        ({"pki_ca_trusted_generations": 2}, "pki_ca_trusted_generations"),
        ({"pki_ca_trusted_generations": [-1]}, "pki_ca_trusted_generations"),
        ({"pki_renew_before_days": 397}, "pki_renew_before_days"),
        ({"pki_renew_before_days": -1}, "pki_renew_before_days"),
        ({"pki_validity_days": 0}, "pki_validity_days"),
        ({"pki_validity_days": 10**9}, "pki_validity_days"),
        ({"pki_ca_validity_days": 36501}, "pki_ca_validity_days"),
        ({"pki_ca_bundle": ["a"]}, "pki_ca_bundle"),
        ({"pki_ca_bundle": "/etc/ssl/certs/ca.crt"}, "pki_ca_bundle"),
        ({"pki_subject_alt_names": ["other"]}, "celery_app_broker_host"),
        ({"celery_app_host_names": ["other"]}, "celery_app_broker_host"),
        ({"celery_app_results_host": "cache.example.com"}, "celery_app_results_host"),
        ({"celery_app_broker_host": ""}, "celery_app_broker_host"),
        ({"pki_subject_alt_names": ["münchen.example.com"]}, "pki_subject_alt_names"),
        ({"pki_subject_alt_names": ["redis1", "a b"]}, "pki_subject_alt_names"),
        ({"pki_subject_alt_names": [""]}, "pki_subject_alt_names"),
        ({"pki_subject_alt_names": ["a" * 64]}, "pki_subject_alt_names"),
        ({"pki_subject_alt_names": ["a." * 127]}, "pki_subject_alt_names"),
        ({"pki_ca_name": "a" * 61}, "pki_ca_name"),
        ({"pki_ca_name": ""}, "pki_ca_name"),
    ],
)
def test_impossible_values_are_refused(
    variables: dict[str, Any], change: dict[str, Any], variable: str
) -> None:
    found = problems({**variables, **change})
    assert variable in {problem.variable for problem in found}, found
    assert all(problem.severity is Severity.ERROR for problem in found)


@pytest.mark.parametrize("name", ["pki_subject_alt_names", "celery_app_host_names"])
@pytest.mark.parametrize("host", ["redis1", "control1"])
def test_servers_need_a_name(variables: dict[str, Any], name: str, host: str) -> None:
    (found,) = problems(variables, {host: {name: []}})
    assert (found.variable, found.hosts) == ("pki_subject_alt_names", (host,))
    # No client connects to a worker host.
    assert problems(variables, {"worker1": {name: []}}) == []


def test_redis_may_be_called_by_any_name_of_its_certificate(variables: dict[str, Any]) -> None:
    for name in ("REDIS1", "broker.example.com", "FD00:0::1", "10.0.0.1"):
        names = ["redis1", "*.example.com", "fd00::1", "10.0.0.1"]
        given = {**variables, "celery_app_broker_host": name}
        assert problems(given, {"redis1": {"celery_app_host_names": names}}) == []


def test_names_that_a_certificate_may_have() -> None:
    for name in (
        "redis1",
        "a_b.example.com",
        "*.example.com",
        "10.1.0.1",
        "FD00::1",
        "xn--mnchen-3ya.de",
    ):
        assert pki_x509.name_fits(name)
    # A certificate can't have the link scope. With the scope, each run would make the certificate again.
    assert pki_x509.name_fits("fd00::1%eth0")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("redis1", "DNS:redis1"),
        ("10.0.0.1", "IP:10.0.0.1"),
        ("FD00:0::1", "IP:fd00::1"),
        ("fd00:0::1%eth0", "IP:fd00::1"),
        ("10.0.0.256", "DNS:10.0.0.256"),
    ],
)
def test_alternative_names_have_their_type(name: str, expected: str) -> None:
    assert pki_x509.alternative_name(name) == expected


def test_a_mode_that_differs_between_hosts_is_refused(variables: dict[str, Any]) -> None:
    (found,) = problems(variables, hosts={"redis1": {"pki_mode": "mutual"}})
    assert found.variable == "pki_mode"
    assert "differs between hosts" in found.message
