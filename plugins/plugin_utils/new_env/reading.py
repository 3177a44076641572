"""Reads the environment that the options describe, or reports all mistakes in them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ..preflight.checks import names, source
from . import application_options, fleet_options
from .answers import Answers
from .environment import GROUPS, PRODUCERS, Environment, Project
from .options import BY_NAME, NEEDED, OPTIONS, Mistake, RefusedError
from .spelling import TAKEN

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


def environment(given: Mapping[str, str], project: Project) -> Environment:
    """Return the environment that the options describe.

    Raises:
        RefusedError: The options have mistakes; the error has all of them.
    """
    answers = Answers(given, project)
    found = _described(answers)
    if answers.mistakes:
        # Two functions may report the same wrong value.
        raise RefusedError(list(dict.fromkeys(answers.mistakes)))
    return found


def mistakes(given: Mapping[str, str], project: Project) -> list[Mistake]:
    """Return all mistakes in the options."""
    try:
        environment(given, project)
    except RefusedError as refused:
        return list(refused.mistakes)
    return []


def missing(given: Mapping[str, str]) -> list[str]:
    """Return the needed options that are missing, in the order of the questions."""
    needed = [option.name for option in OPTIONS if option.question and option.name not in given]
    if "HOSTS" in needed and any(option in given for option in GROUPS.values()):
        needed.remove("HOSTS")
    address = given.get("SOURCE", "")
    if (
        "VERSION" not in given
        and source.address_fits(address)
        and ("://" in address or "@" in address)
    ):
        needed.append("VERSION")
    return needed


def _described(answers: Answers) -> Environment:
    """Return the environment; it means nothing if the answers have mistakes."""
    for option in missing(answers.given):
        answers.wrong(option, NEEDED, f"write, for example, {BY_NAME[option].typed}", "")
    for name, value in answers.given.items():
        answers.check_text(name, value)
    hosts = fleet_options.read_hosts(answers)
    members = fleet_options.read_members(answers, hosts)
    addresses = fleet_options.read_addresses(answers, hosts)
    workers = application_options.read_workers(answers)
    web, protected = application_options.read_web(answers, members)
    if not web and "PRODUCERS" not in answers.given:
        members.pop(PRODUCERS, None)
    found = Environment(
        name=_name(answers),
        hosts=hosts,
        addresses=addresses,
        members=members,
        app=answers.fitting(
            "APP",
            names.application_fits,
            "can't be the name of units, users and directories, or Debian already uses it",
            "begin with a letter; use only a-z, 0-9, - and _, at most 25 characters",
        ),
        module=answers.fitting(
            "MODULE",
            names.module_fits,
            "is not a module that `celery -A` accepts",
            "write it with dots, as in app.celery_app or app.celery_app:app",
        ),
        source=application_options.read_source(answers),
        workers=workers,
        routes=application_options.read_routes(answers, [worker.queue for worker in workers]),
        web=web,
        protected=protected,
        domain=application_options.read_domain(answers, members),
        database=application_options.read_database(answers, hosts),
        ssh_user=answers.fitting(
            "SSH_USER",
            _matches(_USER),
            "can't be the name of a Unix user",
            "write it as in SSH_USER=deploy",
        ),
        firewall=False,
        secrets=answers.choice("SECRETS", ("vault", "env"), "vault"),
        vault_password_file=_vault_password_file(answers),
    )
    return _with_firewall(found, fleet_options.read_firewall(answers, found))


def _name(answers: Answers) -> str:
    name = answers.given.get("NAME", "")
    if not name:
        return name
    directory = answers.project.inventories / name
    if not _NAME.fullmatch(name):
        answers.wrong(
            "NAME",
            "can't be the name of an environment: it becomes the name of a directory, and is written on the hosts",
            "begin with a letter; use only a-z, 0-9, - and _, at most 40 characters",
        )
    elif name in TAKEN:
        answers.wrong(
            "NAME",
            "has a special meaning in an inventory",
            f"choose another one, such as {answers.given.get('APP') or 'shop'}-production",
        )
    elif os.path.lexists(directory):
        answers.wrong(
            "NAME",
            f"already exists: {directory}",
            "choose another name, or edit the existing files; nothing is ever overwritten",
        )
    elif not source.is_dir(answers.project.inventories):
        answers.wrong(
            "INVENTORIES",
            "is not a directory",
            "make it, or name an existing one",
            str(answers.project.inventories),
        )
    elif "," in str(answers.project.inventories):
        answers.wrong(
            "INVENTORIES",
            "contains a comma: Ansible would read its path as a list of hosts",
            "name another directory",
            str(answers.project.inventories),
        )
    elif not os.access(answers.project.inventories, os.W_OK):
        answers.wrong(
            "INVENTORIES",
            "is a directory that you can't write to",
            "name one that you can write to",
            str(answers.project.inventories),
        )
    return name


def _vault_password_file(answers: Answers) -> Path | None:
    option = "VAULT_PASSWORD_FILE"
    text = answers.given.get(option, "")
    if option not in answers.given:
        return None
    if answers.given.get("SECRETS") == "env":
        answers.wrong(option, "has no use with SECRETS=env", "remove one of them")
    path = answers.at(text)
    another = "name a file with the password in it, or remove the option to have one generated"
    if not text:
        return None
    if not source.is_file(path):
        answers.wrong(option, "is not a file that you may read", another)
    elif os.access(path, os.X_OK):
        answers.wrong(
            option,
            "is a program, which Ansible would run to get the password",
            "encrypt with it yourself: make the environment without this option, then `ansible-vault rekey`",
        )
    elif path.stat().st_mode & 0o077:
        answers.wrong(
            option,
            "can be read by others on this machine",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    elif "," in str(path):
        answers.wrong(
            option,
            "contains a comma, which Ansible reads as a separator between files",
            "rename it",
        )
    elif (content := _content(path)) is None:
        answers.wrong(option, "is a file that you can't read", another)
    elif not content.strip():
        answers.wrong(option, "is empty, but a vault needs a password", another)
    return path


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _with_firewall(found: Environment, firewall: bool) -> Environment:
    return Environment(**{**vars(found), "firewall": firewall})
