"""Mistakes in files of variables, and runs that can't succeed: messages name the file and what to type."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.control import (
    ANSIBLE_FROM,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import rendering

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
# A plugin in a directory, which Ansible loads by its path.
_found = importlib.util.spec_from_file_location(
    "variable_files", ROOT / "plugins/vars/variable_files.py"
)
assert _found is not None
assert _found.loader is not None
PLUGIN = importlib.util.module_from_spec(_found)
_found.loader.exec_module(PLUGIN)
SECRET = VaultSecret(b"the password of a test")


def environment(directory: Path, vault_id: str | None) -> Path:
    """Make an inventory with a plain and an encrypted file."""
    every = directory / "group_vars" / "all"
    every.mkdir(parents=True)
    (directory / "hosts.yml").write_text("fleet: {hosts: {one: {}}}\n")
    (every / "celery.yml").write_text("celery_app_name: shop\n")
    sealed = VaultLib([(vault_id, SECRET)]).encrypt("token: of-the-vault\n", vault_id=vault_id)
    (every / "vault.yml").write_bytes(sealed)
    (directory / ".password").write_bytes(SECRET.bytes)
    return directory


def ansible(
    *words: str, directory: Path = ROOT, config: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs in a directory, without the caller's settings except a configuration file."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return subprocess.run(
        words,
        cwd=directory,
        env={**clean, **({"ANSIBLE_CONFIG": str(config)} if config else {}), "COLUMNS": "1000"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def read(inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = ("ansible-inventory", f"--inventory={inventory}", "--host=one", *options)
    return ansible(*words, config=ROOT / "ansible.cfg")


def read_with(directory: Path, file: str, text: str) -> subprocess.CompletedProcess[str]:
    """Read an environment in which one file has another text."""
    inventory = environment(directory / "shop", "shop")
    (inventory / file).parent.mkdir(exist_ok=True)
    (inventory / file).write_text(text)
    return read(inventory, f"--vault-id=shop@{inventory / '.password'}")


@pytest.mark.parametrize(
    ("vault_id", "is_beside"), [("shop", True), ("shop", False), (None, False)]
)
def test_the_remedy_is_named(tmp_path: Path, vault_id: str | None, is_beside: bool) -> None:
    inventory = environment(tmp_path / "shop", vault_id)
    if is_beside:
        (inventory / ".vault-password").write_bytes(SECRET.bytes)

    found = PLUGIN.encrypted(str(inventory))

    assert found == [(inventory / "group_vars/all/vault.yml", vault_id or "")]
    source = inventory / ".vault-password" if is_beside else "prompt"
    line = f"export ANSIBLE_VAULT_IDENTITY_LIST={vault_id or 'default'}@{source}\n"
    assert line in PLUGIN.remedy(inventory, found)


def test_a_run_without_the_password_ends_with_the_remedy(tmp_path: Path) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    done = read(inventory)
    assert done.returncode != 0
    for words in (
        "Attempting to decrypt but no vault secrets found",
        f"{inventory / 'group_vars/all/vault.yml'} is encrypted",
        "export ANSIBLE_VAULT_IDENTITY_LIST=shop@prompt\n",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_line_in_the_remedy_works(tmp_path: Path) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    done = read(inventory, f"--vault-id=shop@{inventory / '.password'}")
    assert done.returncode == 0, done.stderr
    assert '"token": "of-the-vault"' in done.stdout


def test_a_wrong_password_ends_with_the_file_and_the_remedy(tmp_path: Path) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    (tmp_path / "wrong").write_text("another password")
    done = read(inventory, f"--vault-id=shop@{tmp_path / 'wrong'}")
    assert done.returncode != 0
    for words in (
        f"{inventory / 'group_vars/all/vault.yml'} can't be decrypted",
        "of the vault id shop",
        "export ANSIBLE_VAULT_IDENTITY_LIST=shop@prompt\n",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb:\n\tc: 1\n", "3:1", "Tabs are usually invalid"),
        ("a: 1\nb: {{ c }}\n", "2:", "missing quotes around a template"),
        ("a: 1\nc: 2\na: 3\n", "3:1", "duplicate mapping key 'a'"),
        ("a: 1\n  b: 2\n", "2:", "Mapping values are not allowed"),
    ],
)
@pytest.mark.parametrize(
    "file",
    [
        "group_vars/all/celery.yml",
        "host_vars/one.yml",
        "hosts.yml",
    ],
)
def test_a_yaml_mistake_has_its_position(
    tmp_path: Path, file: str, text: str, place: str, words: str
) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    (inventory / file).parent.mkdir(exist_ok=True)
    (inventory / file).write_text(text)
    done = read(inventory, f"--vault-id=shop@{inventory / '.password'}")
    assert done.returncode != 0
    assert done.stderr.count(words) == 1
    assert f"{tmp_path / 'shop' / file}:{place}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: 1\ncrontab: {minute: 0, hour: */6}\n",
            "x.yml:2:28 is not valid YAML: the value of `hour` begins with *",
        ),
        ("a: @s3cret\n", "x.yml:1:4 is not valid YAML: the value of `a` begins with @"),
        ("a:\n  - %s3cret\n", "x.yml:2:5 is not valid YAML: the value begins with %"),
    ],
)
def test_a_value_that_lacks_quotes(tmp_path: Path, text: str, words: str) -> None:
    done = read_with(tmp_path, "group_vars/all/x.yml", text)
    assert done.returncode != 0
    assert done.stderr.count(words) == 1
    assert "s3cret" not in done.stderr


def test_a_file_that_is_not_in_utf_8(tmp_path: Path) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    (inventory / "group_vars/all/x.yml").write_bytes(b"a: 1\nb: \xfc\n")
    done = read(inventory, f"--vault-id=shop@{inventory / '.password'}")
    assert done.returncode != 0
    assert "x.yml:2 is not in UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("group_vars/all/x.yml", "- a: 1\n", "x.yml has no variables: it is a list."),
        ("group_vars/all/x.yml", "a=1\n", "x.yml has no variables: it is a text."),
        (
            "hosts.yml",
            "fleet: {host: {one: }}\n",
            "The group fleet has `host`, but a group can have only hosts,",
        ),
        ("hosts.yml", "fleet: {hosts: [one]}\n", "`hosts` of the group fleet is a list."),
        (
            "hosts.yml",
            "fleet: {hosts: {one: , port: 22}}\n",
            "port, among the hosts of the group fleet, is a number",
        ),
        ("hosts.yml", "celery_app_name: shop\n", "celery_app_name is a string, not a group."),
        ("hosts.yml", "- one\n", "hosts.yml has a list where groups are wanted"),
        ("hosts.yml", "", "hosts.yml has nothing where groups are wanted"),
        ("hosts.yml", "[fleet]\none = two three\n", "hosts.yml"),
        ("hosts.yml", "plugin: no_such_plugin\n", "no_such_plugin"),
        ("more.conf", "Some notes.\n", "more.conf is not an inventory: it is neither YAML nor INI"),
    ],
)
def test_a_file_that_is_no_inventory_is_refused_with_a_clear_message(
    tmp_path: Path, file: str, text: str, words: str
) -> None:
    done = read_with(tmp_path, file, text)
    assert done.returncode != 0
    assert words in done.stderr
    # Ansible's own message may repeat a name.
    assert " " not in words or done.stderr.count(words) == 1
    assert "_AnsibleTagged" not in done.stderr


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("packages-ca.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
        ("certificates/one.crt", "Certificate:\n-----BEGIN CERTIFICATE-----\nMIIB\n"),
        ("backup-key.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQIN\n"),
        ("one.key", "$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
        ("README", "How to run this environment.\n"),
    ],
)
def test_certificates_and_keys_may_be_beside_the_hosts(
    tmp_path: Path, file: str, text: str
) -> None:
    done = read_with(tmp_path, file, text)
    assert (done.returncode, "is not an inventory" in done.stderr) == (0, False), done.stderr


def test_a_variable_that_two_files_set_is_named(tmp_path: Path) -> None:
    done = read_with(tmp_path, "group_vars/all/zz.yml", "celery_app_name: other\n")
    every = tmp_path / "shop/group_vars/all"
    assert done.returncode == 0
    assert (
        f"celery_app_name is set in {every / 'celery.yml'} and again in {every / 'zz.yml'}"
        in done.stderr
    )
    assert "token is set" not in done.stderr


def test_an_old_ansible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        AnsibleError, match=r"ansible-core 2\.16\.3, .* 2\.19 or newer.*`make setup`"
    ):
        PLUGIN.refuse_version("2.16.3")
    PLUGIN.refuse_version("2.19.0b1")
    monkeypatch.setattr(PLUGIN, "__version__", "2.18.9")
    with pytest.raises(AnsibleError, match=r"ansible-core 2\.18\.9"):
        PLUGIN.refuse_ansible.__wrapped__()
    # Preflight says which newer versions are untested.
    assert ANSIBLE_FROM == PLUGIN.OLDEST


def test_an_old_ansible_is_refused_in_the_same_words_without_this_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A project without our ansible.cfg does not enable it."""
    monkeypatch.delattr("ansible.template.trust_as_template")
    monkeypatch.setattr("ansible.release.__version__", "2.18.9")
    name = f"{rendering.__package__}.rendering_in_2_18"
    spec = importlib.util.spec_from_file_location(name, rendering.__file__)
    assert spec
    assert spec.loader
    with pytest.raises(AnsibleError) as refused:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    with pytest.raises(AnsibleError) as wanted:
        PLUGIN.refuse_version("2.18.9")
    assert str(refused.value) == str(wanted.value)
    # Another name that is missing is a mistake of ours.
    monkeypatch.setattr("ansible.release.__version__", "2.30.0")
    with pytest.raises(ImportError, match="trust_as_template"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


INI = """
# A comment.
[redis]
one ansible_host=192.0.2.1

[celery_workers]
two

[fleet:children]
redis
celery_workers
"""
PROGRAM = """#!/bin/sh
echo '{"fleet": {"children": ["redis", "celery_workers"]}, "redis": {"hosts": ["one"]},
  "celery_workers": {"hosts": ["two"]}, "_meta": {"hostvars": {"one": {"ansible_host": "192.0.2.1"}}}}'
"""
CONSTRUCTED = """
plugin: ansible.builtin.constructed
groups: {redis: inventory_hostname == "one", celery_workers: inventory_hostname == "two", fleet: true}
compose: {ansible_host: "'192.0.2.1' if inventory_hostname == 'one' else omit"}
"""


@pytest.mark.parametrize(
    "files",
    [
        {"hosts": INI},
        {"hosts": f"alone\n{INI}"},
        {"hosts.ini": INI},
        {"hosts.yml": INI},
        {"hosts": PROGRAM},
        {"a.yml": "all: {hosts: {one: , two: }}\n", "b.yml": CONSTRUCTED},
    ],
)
def test_other_kinds_of_inventories_are_left_to_ansible(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755 if text.startswith("#!") else 0o644)
    inventories = [f"--inventory={tmp_path / name}" for name in files]
    done = ansible("ansible-inventory", *inventories, "--list", config=ROOT / "ansible.cfg")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["redis"]["hosts"], found["celery_workers"]["hosts"]) == (["one"], ["two"])
    assert "192.0.2.1" in str(found["_meta"]["hostvars"]["one"]["ansible_host"])


def test_the_checkouts_own_playbook_runs_from_any_directory(tmp_path: Path) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    words = ("ansible-playbook", "--inventory=shop/hosts.yml", str(ROOT / "site.yml"))
    done = ansible(*words, "--list-tasks", directory=inventory.parent)
    assert done.returncode == 0, done.stderr
    assert "celery_fleet.core.preflight : inventory | Check the inventory" in done.stdout


def test_a_playbook_that_does_not_find_the_collection_says_what_to_do(tmp_path: Path) -> None:
    inventory = environment(tmp_path / "shop", "shop")
    playbook = ROOT / "playbooks/check_inventory.yml"
    words = ("ansible-playbook", "--inventory=shop/hosts.yml", str(playbook))
    done = ansible(*words, directory=inventory.parent)
    assert done.returncode != 0
    assert f"export ANSIBLE_COLLECTIONS_PATH={ROOT / 'collections'}\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_without_links_works(tmp_path: Path) -> None:
    """`scp -r` and some archives replace the links with directories."""
    copy = tmp_path / "copy"
    for part in ("collections", "playbooks"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("ansible.cfg", "site.yml"):
        shutil.copy(ROOT / name, copy / name)
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("fleet: {hosts: {one: {}}}\n")
    words = ("ansible-playbook", f"--inventory={inventory}", "site.yml", "--list-tasks")
    done = ansible(*words, directory=copy, config=copy / "ansible.cfg")
    assert done.returncode == 0, done.stderr
