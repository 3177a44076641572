"""Filters with code of their own; those that only call a function are tested with it."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from ansible.errors import AnsibleFilterError

from tests.facts import facts

ROOT = Path(__file__).resolve().parents[3]


def load() -> ModuleType:
    path = ROOT / "plugins/filter/fleet.py"
    spec = importlib.util.spec_from_file_location("fleet_filters", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FLEET = load()
FILTERS = FLEET.FilterModule().filters()


def test_every_filter_that_a_role_uses_exists() -> None:
    assert {path.stem for path in (ROOT / "plugins/filter").glob("*.yml")} == FILTERS.keys()


def test_an_error_is_an_ansible_error_and_names_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match="environment_file: A-B can't be the name"):
        FILTERS["environment_file"]({"A-B": 1})
    with pytest.raises(AnsibleFilterError, match="nodes: 'nosuch'"):
        FILTERS["worker_nodes"]({}, ["nosuch"], {})


# --- htpasswd ----------------------------------------------------------------------------------------


def htpasswd(password: str, user: str, name: str = "web", fleet: str = "shop.example.org") -> str:
    """Return the line in a site's password file."""
    site = FILTERS["nginx_site"](
        facts(directory="/d"),
        name,
        user,
        password,
        # YAML reads an owner with only digits as a number.
        names=["production", 2026, fleet],
        port=443,
        socket="/s",
        protected=["/"],
        proxy={"read_timeout": 60, "send_timeout": 60, "ipv6": True},
    )
    (line,) = [item["content"] for item in site["files"] if item.get("secret")]
    return str(line)


@pytest.mark.parametrize("password", ["secret", "pä$$ wörd:'\"\\", "x" * 200])
def test_openssl_makes_the_same_password_line(password: str) -> None:
    line = htpasswd(password, "admin")
    user, _, hashed = line.rstrip("\n").partition(":")
    assert user == "admin"
    kind, salt = hashed.split("$")[1:3]
    assert (kind, len(salt)) == ("6", 16)
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "-stdin"],
        input=password,
        capture_output=True,
        text=True,
        check=True,
    )
    assert hashed == done.stdout.strip()


def test_a_password_line_is_the_same_in_each_run_and_differs_by_user_site_and_fleet() -> None:
    assert htpasswd("a", "u") == htpasswd("a", "u")
    given = (("a", "u"), ("a", "v"), ("a", "u", "flower"), ("a", "u", "web", "other.example.org"))
    assert len({htpasswd(*one).split("$")[2] for one in given}) == len(given)


def test_the_salt_of_a_password_line_does_not_depend_on_the_password() -> None:
    first, second = (htpasswd(password, "u").split("$")[2:] for password in ("a", "b"))
    assert first[0] == second[0]
    assert first[1] != second[1]
