"""The role's own tasks, run by Ansible: authorities and certificates are made, kept, renewed, and recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import chain as pki_chain
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import records, x509
from cryptography.x509 import ExtendedKeyUsage
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.collection import replaced
from tests.render.fleet import ansible
from tests.support.certificates import Authority, text_of

PLAY = """
- hosts: fleet
  gather_facts: false
  any_errors_fatal: true
  pre_tasks:
    - name: Know the host
      ansible.builtin.set_fact: {fleet: "{{ facts | default({}) }}", cacheable: true}
  roles:
    - celery_fleet.core.celery_app
    - {role: celery_fleet.core.pki}
  post_tasks:
    - name: Note
      ansible.builtin.import_role: {name: celery_fleet.core.pki, tasks_from: record, rolespec_validate: false}
"""
# Writes the hosts' files into a directory instead.
STUB = """
- ansible.builtin.copy:
    dest: "{{ installed }}-{{ inventory_hostname }}-{{ item.dest | basename }}"
    content: "{{ item.content }}"
  loop: "{{ systemd_unit_wanted.files }}"
  no_log: true
"""
PASSPHRASE = "not-a-real-passphrase"
HOSTS = ("redis1", "worker1")


class Role:
    """The role on two hosts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        stub = directory / "systemd_unit/tasks"
        stub.mkdir(parents=True)
        (stub / "main.yml").write_text(STUB)
        (directory / "play.yml").write_text(PLAY)

    def run(self, hosts: dict[str, Any] | None = None, limit: str = "", **given: Any) -> str:
        """Run the role and return its output, which must contain no key and no passphrase."""
        shared = {
            "celery_app_name": "shop",
            "celery_app_module": "app",
            "celery_app_source": {"path": "app"},
            "pki_directory": f"{self.directory}/pki",
            "pki_ca_passphrase": PASSPHRASE,
            "installed": f"{self.directory}/installed",
            "__preflight_hosts": {"missing": {}},
            **given,
        }
        own = hosts or {}
        children = {
            group: {"hosts": {host: own.get(host, {})}}
            for group, host in zip(("redis", "celery_workers"), HOSTS, strict=True)
        }
        # Only for hosts: tasks on the control node use its own Python.
        reached = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        inventory = {"all": {"vars": shared}, "fleet": {"children": children, "vars": reached}}
        (self.directory / "hosts.yml").write_text(json.dumps(inventory))
        done = ansible(
            "ansible-playbook",
            f"--inventory={self.directory}/hosts.yml",
            *([f"--limit={limit}"] if limit else []),
            "-vvv",
            str(self.directory / "play.yml"),
            ANSIBLE_COLLECTIONS_PATH=replaced(
                self.directory, parts={"roles/systemd_unit": self.directory / "systemd_unit"}
            ),
        )
        text = done.stdout + done.stderr
        assert done.returncode == 0, text[-4000:]
        assert "PRIVATE KEY" not in text
        assert PASSPHRASE not in text
        return text

    def file(self, name: str, host: str = "redis1") -> str:
        return (self.directory / f"installed-{host}-{name}").read_text()

    def record(self, host: str = "redis1") -> records.CertificateRecord:
        found = records.read_record(f"{self.directory}/pki", host)
        assert found is not None
        return found


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role(tmp_path)


def changes(text: str) -> int:
    return sum(
        int(line.split("changed=")[1].split()[0])
        for line in text.splitlines()
        if "changed=" in line
    )


@pytest.mark.long
def test_own_authorities_one_after_the_other(role: Role) -> None:
    role.run()
    first = role.file("ca.crt")
    authority, *more = x509.certificates(first)
    assert (more, x509.title(authority)) == ([], "'shop fleet CA'")
    for host in HOSTS:
        assert pki_chain.is_trusted(role.file("host.crt", host), first)
        assert role.record(host) == records.CertificateRecord(first, role.file("host.crt", host))
    made = {path.name: path.stat().st_mode & 0o777 for path in role.directory.glob("pki/**/*")}
    assert made["ca.key"] == made["redis1.key"] == 0o600
    assert made["hosts"] == 0o700
    assert "ENCRYPTED" in (role.directory / "pki/ca.key").read_text()
    # A host whose clock is behind accepts them at once.
    early = datetime.now(UTC) - timedelta(minutes=55)
    assert authority.not_valid_before_utc < early
    assert x509.certificates(role.file("host.crt"))[0].not_valid_before_utc < early
    assert changes(role.run()) == 0

    # Both are trusted, and no host has a new certificate.
    before = role.file("host.crt")
    role.run(pki_ca_trusted_generations=[2])
    assert role.file("host.crt") == before
    titles = [x509.title(item) for item in x509.certificates(role.file("ca.crt"))]
    assert titles == ["'shop fleet CA'", "'shop fleet CA 2'"]
    assert role.record().bundle == role.file("ca.crt")

    # With a limit, each host gets its certificate in a separate run, with its existing key.
    key = role.file("host.key")
    role.run(limit="redis1", pki_ca_generation=2, pki_ca_trusted_generations=[1])
    assert x509.issuer(x509.certificates(role.file("host.crt"))[0]) == "'shop fleet CA 2'"
    assert x509.issuer(x509.certificates(role.record("worker1").chain)[0]) == "'shop fleet CA'"
    assert role.file("host.key") == key
    role.run(pki_ca_generation=2, pki_ca_trusted_generations=[1])
    role.run(pki_ca_generation=2)
    assert role.file("ca.crt") == (role.directory / "pki/ca-2.crt").read_text()
    assert all(
        pki_chain.is_trusted(role.file("host.crt", host), role.file("ca.crt")) for host in HOSTS
    )
    assert changes(role.run(pki_ca_generation=2)) == 0


@pytest.mark.long
def test_a_users_intermediate_authority_signs(role: Role) -> None:
    root = Authority("root")
    middle = Authority("middle", above=root)
    given = {
        "pki_source": "intermediate",
        "pki_ca_certificate": middle.pem.rstrip(),
        "pki_ca_key": text_of(middle.key, PASSPHRASE),
        "pki_ca_bundle": root.pem,
    }
    role.run(**given)
    assert role.file("ca.crt") == root.pem
    chain = x509.certificates(role.file("host.crt", "worker1"))
    assert [x509.title(item) for item in chain] == ["'worker1'", "'middle'"]
    assert pki_chain.is_trusted(role.file("host.crt"), root.pem)
    assert not list(role.directory.glob("pki/ca*"))
    assert changes(role.run(**given)) == 0
    # An unencrypted key, and a passphrase that is left from another source.
    role.run(**given, pki_validity_days=500, pki_renew_before_days=400)
    role.run(
        **{**given, "pki_ca_key": text_of(middle.key)},
        pki_renew_before_days=450,
        pki_validity_days=600,
    )
    assert pki_chain.is_trusted(role.file("host.crt"), root.pem)


@pytest.mark.slow
def test_certificates_from_outside_are_used_unchanged(role: Role) -> None:
    root = Authority("root")
    middle = Authority("middle", above=root)
    hosts = {}
    for host in HOSTS:
        certificate, key = middle.issue([f"DNS:{host}"])
        hosts[host] = {"pki_certificate": certificate, "pki_key": key}
    given = {"pki_source": "external", "pki_chain": middle.pem, "pki_ca_bundle": root.pem}
    role.run(hosts, **given)
    for host in HOSTS:
        assert role.file("host.crt", host) == hosts[host]["pki_certificate"] + middle.pem
        assert role.file("host.key", host) == hosts[host]["pki_key"]
        assert role.record(host) == records.CertificateRecord(root.pem, role.file("host.crt", host))
    assert [path.name for path in role.directory.glob("pki/*")] == ["hosts"]
    assert changes(role.run(hosts, **given)) == 0


@pytest.mark.long
def test_clients_get_certificates_and_their_removal_is_recorded(role: Role) -> None:
    role.run()
    assert not x509.serves_clients(x509.certificates(role.file("host.crt"))[0])
    role.run(pki_mode="mutual")
    # Redis shows it to other instances, too.
    assert x509.serves_clients(x509.certificates(role.file("host.crt"))[0])
    assert records.everybody_shows_one(f"{role.directory}/pki", HOSTS)
    shown = role.file("client.crt")
    (client, _) = x509.certificates(shown)
    usage = client.extensions.get_extension_for_class(ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert x509.names(client) == set()
    assert x509.key_of(client) == x509.private_key(role.file("client.key")).public_key()
    assert role.file("client.key") not in (
        role.file("host.key"),
        role.file("client.key", "worker1"),
    )
    assert role.record().client_chain == shown
    assert changes(role.run(pki_mode="mutual")) == 0
    # A second authority signs both.
    both = {"pki_ca_generation": 2, "pki_ca_trusted_generations": [1], "pki_mode": "mutual"}
    role.run(**both)
    for name in ("host.crt", "client.crt"):
        assert x509.issuer(x509.certificates(role.file(name))[0]) == "'shop fleet CA 2'"
    role.run(pki_mode="mutual", pki_ca_trusted_generations=[2])
    # The run ends before its last play. No host may rely on files that are about to be removed.
    (role.directory / "play.yml").write_text(PLAY.partition("  post_tasks")[0])
    role.run(pki_mode="server")
    assert not role.record().clients
    assert role.record().chain == role.file("host.crt")
    kept = role.directory / "pki/clients"
    assert len(list(kept.iterdir())) == 2 * len(HOSTS)
    # A whole run removes what is no longer shown, here only on the control node, because the hosts have no such files.
    (role.directory / "play.yml").write_text(PLAY)
    role.run(pki_mode="server", facts={"has_client_key": True})
    assert list(kept.iterdir()) == []
