from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env import secret
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.environment import Project
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.files import (
    files,
    yaml_text,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.reading import environment
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from tests.unit.new_env.given import (
    GOOD,
    LARGE,
    PASSWORD,
    ROOT,
    SMALL,
    TWO,
    decrypted,
    inventory,
    made,
    variables,
)
from tests.unit.preflight.inventory import problems


@pytest.mark.parametrize("name", GOOD)
def test_preflight_accepts_the_environment(name: str, tmp_path: Path) -> None:
    """This is in-process; in test_program.py Ansible reads the files."""
    _, values, found = made(GOOD[name], tmp_path)
    groups, own = inventory(found)
    given = variables(found)
    if GOOD[name].get("SECRETS") == "env":
        assert given["redis_passwords"].keys() == {
            key.split(".")[1] for key in values if "." in key
        }
        given |= {key: value for key, value in values.items() if "." not in key}
        given["redis_passwords"] = {
            key.split(".")[1]: value for key, value in values.items() if "." in key
        }
    said = problems(given, own, groups)
    assert [one for one in said if one.severity is Severity.ERROR] == []
    assert said == []


def test_an_environment_can_get_a_redis_of_the_users_own(tmp_path: Path) -> None:
    """By the changes that docs/redis.md lists."""
    _, _, found = made(TWO, tmp_path)
    del found["group_vars/all/redis.yml"]
    groups, own = inventory(found)
    given = variables(found)
    del given["redis_passwords"]
    given |= {
        "celery_app_broker_url": f"rediss://me:{'a1' * 12}@redis.example.org:6379/0",
        "celery_app_lease_host": "one",
    }
    assert problems(given, own, {**groups, "redis": []}) == []


@pytest.mark.parametrize("name", GOOD)
def test_only_used_roles_have_a_file(name: str, tmp_path: Path) -> None:
    wanted, _, found = made(GOOD[name], tmp_path)
    groups, _ = inventory(found)
    for group in ("celery_beat", "flower"):
        assert (f"group_vars/all/{group}.yml" in found) == (group in groups) == wanted.has(group)
    assert set(groups) - {"all", "postgresql"} == {"fleet", *wanted.members}


def test_given_options_are_in_the_files(tmp_path: Path) -> None:
    wanted, values, found = made(LARGE, tmp_path)
    assert wanted.members["celery_workers"] == ("worker1", "worker2.example.com")
    given = variables(found)
    assert given["celery_app_source"] == {
        "git": "https://git.example.com/team/shop.git",
        "version": "v1.0.0",
        "directory": "backend",
    }
    assert given["celery_worker_instances"] == {
        "orders": {"concurrency": 4},
        "mail": {"concurrency": 2},
        "big-jobs": {"queues": ["Big.Jobs"]},
        "9lives": {"concurrency": 1},
    }
    assert list(given["celery_app_task_routes"]) == ["shop.tasks.send_*", "shop.tasks.*"]
    assert given["celery_producer_web"]["command"][-1] == "shop.wsgi:application"
    assert given["celery_app_env_urls"]["DATABASE_URL"]["port"] == 5433
    assert given["celery_app_env_urls"]["DATABASE_URL"]["query"] == {"sslmode": "verify-full"}
    assert given["ansible_user"] == "deploy"
    assert given["database_password"] == values["database_password"]
    _, own = inventory(found)
    assert own["control1"]["celery_app_host_names"] == ["shop.example.com", "control1"]
    assert "celery_app_host_names" not in own["redis1"]


def test_the_addresses_of_hosts_are_in_the_inventory(tmp_path: Path) -> None:
    _, _, found = made({**TWO, "DOMAIN": "shop.example.com"}, tmp_path)
    _, own = inventory(found)
    assert own["one"]["ansible_host"] == "10.1.0.1"
    # The last one is reached at its address.
    assert own["one"]["celery_app_host_names"] == ["shop.example.com", "one", "10.1.0.1"]
    assert variables(found)["firewall_enabled"] is True


def test_secrets_are_random_long_and_encrypted(tmp_path: Path) -> None:
    _, first, found = made(LARGE, tmp_path)
    _, second, _ = made(LARGE, tmp_path)
    everything = [*first.values(), *second.values()]
    assert len(first) == 11
    assert len(set(everything)) == len(everything)
    assert {len(value) for value in everything} == {48}
    vault = found["group_vars/all/vault.yml"]
    assert vault.text.startswith("$ANSIBLE_VAULT;1.2;AES256;shop\n")
    assert stat.S_IMODE(vault.mode) == 0o600
    assert all(value in decrypted(vault.text) for value in first.values())
    for name, file in found.items():
        assert not any(value in file.text for value in first.values()), name
    assert found[".vault-password"].text == PASSWORD.decode() + "\n"
    assert found[".vault-password"].mode == 0o600


def test_with_variables_nothing_is_encrypted_and_nothing_is_in_the_clear(tmp_path: Path) -> None:
    _, values, found = made(GOOD["variables"], tmp_path)
    assert ".vault-password" not in found
    exports = found.pop(".secrets/environment")
    assert exports.mode == 0o600
    for name, file in found.items():
        assert not any(value in file.text for value in values.values()), name
    named = set(re.findall(r"FLEET_SECRET_\w+", found["group_vars/all/vault.yml"].text))
    done = subprocess.run(
        ["sh", "-c", ". /dev/stdin; env"],
        input=exports.text,
        capture_output=True,
        text=True,
        check=True,
    )
    set_there = dict(
        line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("FLEET_")
    )
    assert set(set_there) == named
    assert sorted(set_there.values()) == sorted(values.values())


def test_a_given_vault_password_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(PASSWORD.decode())
    path.chmod(0o600)
    _, _, found = made({**SMALL, "VAULT_PASSWORD_FILE": str(path)}, tmp_path)
    assert ".vault-password" not in found
    assert f"shop@{path}" in found["README.md"].text


@pytest.mark.parametrize("name", GOOD)
def test_the_readme_names_what_exists(name: str, tmp_path: Path) -> None:
    _, _, found = made(GOOD[name], ROOT / "inventories")
    text = found["README.md"].text
    named = re.findall(r"-i inventories/\S+ (\S+)", text)
    assert "celery_fleet.core.site" in named
    for playbook in named:
        if playbook.startswith("celery_fleet.core."):
            playbook = f"playbooks/{playbook.removeprefix('celery_fleet.core.')}.yml"
        assert (ROOT / playbook).is_file(), playbook
    for path in re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE):
        assert path in found or path == "pki/", path
    for page in re.findall(r"`(docs/\S+\.md)`", text):
        assert (ROOT / page).is_file(), page
    assert "<<" not in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", ["own-database", "own-database-of-one-host"])
def test_without_a_checkout_the_database_is_not_installed(name: str, tmp_path: Path) -> None:
    """The installed collection has no examples."""
    shutil.copytree(ROOT / SMALL["SOURCE"], tmp_path / "code")
    (tmp_path / "inventories").mkdir()
    own = Project(tmp_path, tmp_path / "inventories")
    wanted = environment({**GOOD[name], "SOURCE": "code"}, own)
    found = files(wanted, own, secret.make(wanted), PASSWORD)
    for path, file in found.items():
        assert "examples/" not in file.text, path
    assert "postgresql:" not in found["hosts.yml"].text
    assert wanted.database is not None
    words = f"names `flexiprice` on `{wanted.database.host}`, with a random password. Give that user this"
    assert words in found["README.md"].text
    assert "The application's database is not part of" in found["group_vars/all/database.yml"].text


@pytest.mark.parametrize("name", ["variables", "own-database"])
def test_paths_in_commands_of_the_readme_are_quoted(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "our inventories"
    directory.mkdir()
    wanted, _, found = made(GOOD[name], directory)
    commands = re.findall(r"^    (\S.*)", found["README.md"].text, re.MULTILINE)
    words = [shlex.split(command, comments=True) for command in commands]
    named = [word for line in words for word in line if "our" in word or "inventories" in word]
    assert len(named) >= 5
    for word in named:
        assert f"{directory}/{wanted.name}" in word, word


def test_files_pass_the_projects_linters(tmp_path: Path) -> None:
    # Files that git ignores are exempt; there are none here.
    config = tmp_path / "config"
    config.write_text(
        (ROOT / ".yamllint").read_text().replace("ignore-from-file: .gitignore\n", "")
    )
    for name in ("large", "own-database", "variables", "small"):
        directory = tmp_path / name
        for path, file in made(GOOD[name], tmp_path)[2].items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text)
            assert not re.search(r"[ \t]+$|\n\n\n|\n\n\Z", file.text, re.MULTILINE), path
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("yamllint")),
            "--strict",
            f"--config-file={config}",
            tmp_path,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "value", ["on", "1.0", "a: b", "@x", "plain", "'", "é", "", ["--fd", "3"], {"a": "*"}]
)
def test_values_are_read_as_they_were_written(value: object) -> None:
    assert yaml.safe_load(f"key: {yaml_text(value)}") == {"key": value}
