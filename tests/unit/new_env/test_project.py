"""The playbook `new_env` in a user's own project, without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.new_env.given import ROOT

pytestmark = pytest.mark.slow

GIVEN = "NAME=shop HOSTS=redis1,control1,worker1 APP=shop MODULE=shop.celery_app SOURCE=."
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a user's project, which has no ansible.cfg."""
    (tmp_path / "home").mkdir()
    (tmp_path / "shop/shop").mkdir(parents=True)
    (tmp_path / "shop/shop/celery_app.py").touch()
    (tmp_path / "shop/requirements.txt").write_text("celery\n")
    return tmp_path / "shop"


def run(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook in a project."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), *words],
        cwd=project,
        env={
            **CLEAN,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            "HOME": str(project.parent / "home"),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def new_env(project: Path, options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(project, "celery_fleet.core.new_env", "-e", options, **environment)


def check(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Let preflight check the environment that was made."""
    return run(
        project,
        "--inventory=inventories/shop",
        "celery_fleet.core.check_inventory",
        ANSIBLE_VAULT_IDENTITY_LIST="shop@inventories/shop/.vault-password",
        **environment,
    )


@pytest.mark.parametrize("place", ["home/.ansible.cfg", "company/ansible.cfg"])
def test_another_configuration_of_ansible_does_not_matter(shop: Path, place: str) -> None:
    config = shop.parent / place
    config.parent.mkdir(exist_ok=True)
    config.write_text("[defaults]\nforks = 7\n")
    given = {} if "home" in place else {"ANSIBLE_CONFIG": str(config)}
    done = new_env(shop, GIVEN, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    # Ansible would not read one beside the one that is named.
    assert (shop / "ansible.cfg").exists() is ("home" in place)
    checked = check(shop, **given)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (shop / "ansible.cfg").unlink(missing_ok=True)
    checked = check(shop, **given)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_configuration_is_removed_again_if_preflight_refuses(shop: Path) -> None:
    (shop / "inventories").mkdir()
    before = sorted(path.name for path in shop.iterdir())
    done = new_env(shop, GIVEN, ANSIBLE_STRATEGY="free")
    assert done.returncode != 0
    assert "preflight refuses the resulting environment" in done.stdout + done.stderr
    assert sorted(path.name for path in shop.iterdir()) == before
    assert os.listdir(shop / "inventories") == []
