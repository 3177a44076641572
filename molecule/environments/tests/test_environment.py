"""An environment from `make new-env` can be deployed without an edit, wherever its secrets come from."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import plays, units
from support.inventory import ROOT, ansible_environment

if TYPE_CHECKING:
    from support.inventory import Fleet

# The project's goal in seconds, with warm caches, on two fresh hosts. The application's database is not counted.
WITHIN = 300.0
PREFIX = "FLEET_SECRET_"


def plan(fleet: Fleet, title: str, directory: Path, *arguments: str) -> list[Any]:
    """Return the plan of a run."""
    path = directory / f"{title}.json"
    run = plays.play(
        fleet, title, "-e", f"fleet_plan_json={path}", *arguments, playbook="playbooks/plan.yml"
    )
    assert run.status == 0, run.end
    items: list[Any] = json.loads(path.read_text())["items"]
    return items


def test_the_environment_is_deployed_in_time(fleet: Fleet) -> None:
    took = {}
    for path in fleet.state.glob("*.seconds"):
        began, ended = map(float, path.read_text().split())
        took[path.stem] = ended - began
    assert set(took) == {"new-env", "database", "site"}
    assert took["new-env"] + took["site"] <= WITHIN, took


@pytest.mark.parametrize("kind", ["broker", "results"])
def test_redis_is_closed_to_strangers(fleet: Fleet, kind: str) -> None:
    """This machine is not in the fleet. If it is given addresses, new-env enables the firewall."""
    variables = fleet.of("redis")
    with socket.create_connection((variables["ansible_host"], 22), timeout=10):
        pass
    with pytest.raises(TimeoutError):
        socket.create_connection(
            (variables["ansible_host"], variables[f"redis_{kind}_port"]), timeout=3
        )


def test_second_run_changes_nothing(fleet: Fleet) -> None:
    before = units.main_pids(fleet)
    run = plays.play(fleet, "second-run")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    assert units.main_pids(fleet) == before


def test_secrets_are_only_in_the_vault(fleet: Fleet, environment: Path) -> None:
    secrets = {
        *fleet.of("redis")["redis_passwords"].values(),
        *(fleet.of("flower")[f"flower_{name}"] for name in ("auth_password", "cookie_secret")),
        fleet.of("fleet")["pki_ca_passphrase"],
        fleet.of("celery_producers")["celery_producer_web_auth_password"],
        fleet.of("postgresql")["postgresql_password"],
        (environment / ".vault-password").read_text().strip(),
    }
    assert len(secrets) == 12
    holding = {
        str(path.relative_to(environment))
        for path in environment.rglob("*")
        if path.is_file() and any(secret in path.read_text() for secret in secrets)
    }
    assert holding == {".vault-password"}
    assert stat.S_IMODE((environment / ".vault-password").stat().st_mode) == 0o600


def test_a_run_without_the_vaults_password_is_refused(fleet: Fleet, environment: Path) -> None:
    done = subprocess.run(
        ["ansible-playbook", f"--inventory={environment}", "site.yml"],
        cwd=ROOT,
        env=ansible_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    # The environment's README quotes this message with its remedy.
    assert "Attempting to decrypt but no vault secrets found" in done.stderr
    assert (
        "Attempting to decrypt but no vault secrets found"
        in (environment / "README.md").read_text()
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_secrets_may_come_from_environment_variables(
    fleet: Fleet, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same secrets, a plan finds nothing to do. A changed secret is noticed, and a missing one is refused."""
    options = {
        **_options(fleet),
        "SECRETS": "env",
        "INVENTORIES": str(tmp_path),
    }
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env",
            *(f"{key}={value}" for key, value in options.items()),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "collections"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    other = tmp_path / "shop"
    lookups = (other / "group_vars/all/vault.yml").read_text()
    # A copy of the environment under test in which only this file is replaced.
    changed = tmp_path / "with-variables" / "shop"
    shutil.copytree(environment, changed)
    (changed / ".vault-password").unlink()
    (changed / "group_vars/all/vault.yml").write_text(lookups)
    variables = {
        **{
            f"REDIS_{user.upper()}": text
            for user, text in fleet.of("redis")["redis_passwords"].items()
        },
        "PKI_CA_PASSPHRASE": fleet.of("fleet")["pki_ca_passphrase"],
        "FLOWER_AUTH_PASSWORD": fleet.of("flower")["flower_auth_password"],
        "FLOWER_COOKIE_SECRET": fleet.of("flower")["flower_cookie_secret"],
        "CELERY_PRODUCER_WEB_AUTH_PASSWORD": fleet.of("celery_producers")[
            "celery_producer_web_auth_password"
        ],
        "DATABASE_PASSWORD": fleet.of("postgresql")["postgresql_password"],
    }
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    here = type(fleet)(
        fleet.expected,
        fleet.containers,
        fleet.state,
        (str(changed), "molecule/environments/inventory"),
    )
    assert plan(here, "plan-of-variables", tmp_path) == []

    monkeypatch.setenv(f"{PREFIX}REDIS_BEAT", "another-one-of-this-test")
    found = plan(here, "plan-of-another-variable", tmp_path)
    assert any("beat" in json.dumps(item) for item in found)
    assert "another-one-of-this-test" not in json.dumps(found)

    monkeypatch.delenv(f"{PREFIX}REDIS_BEAT")
    refused = plays.play(here, "plan-without-a-variable", playbook="playbooks/plan.yml")
    assert refused.status != 0
    assert refused.contacts == 0
    assert f"{PREFIX}REDIS_BEAT" in refused.text


def _options(fleet: Fleet) -> dict[str, str]:
    """Return options of `new_env` that make an environment with the same secrets."""
    return {
        "NAME": "shop",
        "HOSTS": ",".join(fleet.hosts()),
        "APP": "flexiprice",
        "MODULE": "app.celery_app",
        "SOURCE": "examples/flexiprice/backend",
        "DATABASE": "postgresql://flexiprice@control1/flexiprice",
        "WEB": "python -m uvicorn app.main:app --fd 3",
        "PROTECT": "/api/v1/admin/",
    }
