"""Renders the files of a new environment."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment as Jinja
from jinja2 import FileSystemLoader, StrictUndefined

from . import secret
from .environment import BEAT, FLOWER, PRODUCERS, Environment, Project
from .write import GeneratedFile

PASSWORD_FILE: Final = ".vault-password"  # noqa: S105 - the name of a file
EXPORTS_FILE: Final = ".secrets/environment"
ALL: Final = "group_vars/all"


def files(
    environment: Environment, project: Project, values: Mapping[str, str], vault_password: bytes
) -> dict[str, GeneratedFile]:
    """Return each file by its path below the environment's directory.

    Args:
        environment: The environment.
        project: The directories of the program.
        values: Its secrets.
        vault_password: The vault's password, used if there is a vault.
    """
    render = _Renderer(environment, project)
    found = {
        "hosts.yml": GeneratedFile(render("hosts.yml")),
        ".gitignore": GeneratedFile(render("gitignore")),
        "README.md": GeneratedFile(render("README.md")),
    }
    parts = ["connection", "celery_app", "celery_worker", "redis", "firewall", "verify"]
    parts += [part for part in (BEAT, FLOWER) if environment.has(part)]
    if environment.has(PRODUCERS):
        parts.append("celery_producer")
    if environment.database is not None:
        parts.append("database")
    for part in parts:
        found[f"{ALL}/{part}.yml"] = GeneratedFile(render(f"{part}.yml"))
    if environment.secrets == "env":
        found[f"{ALL}/vault.yml"] = GeneratedFile(render("vault.yml", lookups(environment)))
        found[EXPORTS_FILE] = GeneratedFile(secret.exports(values), 0o600)
    else:
        text = render("vault.yml", dict(values))
        sealed = secret.encrypted(text, environment.name, vault_password)
        found[f"{ALL}/vault.yml"] = GeneratedFile(sealed, 0o600)
        if environment.vault_password_file is None:
            found[PASSWORD_FILE] = GeneratedFile(vault_password.decode() + "\n", 0o600)
    return found


def configuration(collections: str) -> str:
    """Return an `ansible.cfg` for a project that uses the installed collection.

    Args:
        collections: The directory of the project that it is installed in; empty if it is elsewhere.
    """
    return _jinja().get_template("ansible.cfg.j2").render(collections=collections)


def lookups(environment: Environment) -> dict[str, str]:
    """Return for each secret an expression that reads it from the environment of the user who deploys."""
    found = {}
    for name in secret.names(environment):
        variable = secret.variable(name)
        undefined = f"undef(hint='set the environment variable {variable}')"
        found[name] = (
            f"{{{{ lookup('ansible.builtin.env', '{variable}',\n   default={undefined}) }}}}"
        )
    return found


def secret_text(value: str, indent: int) -> str:
    """Return a secret, or the lines of the expression for it, in the form of a value after a key in YAML."""
    if "\n" not in value:
        return json.dumps(value)
    return ">-\n" + "\n".join(" " * indent + line for line in value.splitlines())


def yaml_text(value: Any) -> str:
    """Return a value in the form of a value after a key in YAML, on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _jinja() -> Jinja:
    """Return the Jinja environment for the templates beside this file."""
    made = Jinja(  # noqa: S701 - YAML, Markdown and no HTML
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        # Not Ansible's own delimiters, which are in the generated files.
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["yaml"] = yaml_text
    made.filters["secret"] = secret_text
    made.filters["shell"] = shlex.quote
    return made


class _Renderer:
    """Renders the files of an environment."""

    def __init__(self, environment: Environment, project: Project) -> None:
        self._jinja = _jinja()
        self._environment = environment
        self._is_checkout = project.is_checkout
        self._directory = shown_directory(environment, project)

    def __call__(self, name: str, values: Mapping[str, str] | None = None) -> str:
        """Return one file; `values` are its secrets, or the expressions for them."""
        env = self._environment
        return self._jinja.get_template(f"{name}.j2").render(
            env=env,
            directory=self._directory,
            is_checkout=self._is_checkout,
            sites=sites(env),
            values=values or {},
            password_file=password_file(env, self._directory),
            exports_file=f"{self._directory}/{EXPORTS_FILE}",
            names=secret.names(env),
            by_address=all(_is_ipv4(env.addresses.get(host, "")) for host in env.hosts),
        )


def _is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def sites(environment: Environment) -> dict[str, str]:
    """Return for each host of a web site the name or address that users type."""
    hosts = [
        *(environment.members.get(PRODUCERS, ()) if environment.web else ()),
        *environment.members.get(FLOWER, ()),
    ]
    return {
        host: environment.domain or environment.addresses.get(host, host)
        for host in dict.fromkeys(hosts)
    }


def shown_directory(environment: Environment, project: Project) -> str:
    """Return the environment's directory as users type it in the project's directory."""
    directory = project.inventories / environment.name
    if directory.is_relative_to(project.base):
        return str(directory.relative_to(project.base))
    return str(directory)


def password_file(environment: Environment, directory: str) -> str:
    """Return the file of the vault's password as users type it in the project's directory."""
    given = environment.vault_password_file
    return f"{directory}/{PASSWORD_FILE}" if given is None else str(given)
