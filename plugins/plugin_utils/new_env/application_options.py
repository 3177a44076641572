"""Reads the options about the application: its code, its workers and queues, its web process, its database.

Each function reads one option and adds the mistakes in it to the answers.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from ..preflight.checks import names, network, source, web_server
from ..preflight.model.paths import never_a_source
from .answers import Answers
from .environment import FLOWER, PRODUCERS, Database, NewWorker
from .options import BY_NAME
from .spelling import HOST, LABEL, near

_DOMAIN: Final = re.compile(rf"{LABEL}(\.{LABEL})+")
_ROUTE: Final = re.compile(r"[A-Za-z0-9_.*?\[\]-]+")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
_MOST_PROCESSES: Final = 1024
# Drivers of PostgreSQL in a URL's scheme that take the options of libpq; the first is for a scheme without a driver.
_LIBPQ: Final = ("", "psycopg", "psycopg2")
_COUNT: Final = re.compile(r"[0-9]{1,9}")


def read_workers(answers: Answers) -> tuple[NewWorker, ...]:
    """Return a worker for each of QUEUES."""
    if "QUEUES" not in answers.given:
        return (NewWorker("celery", "celery", None),)
    found: dict[str, NewWorker] = {}
    for item in answers.items("QUEUES"):
        queue, equals, number = item.rpartition("=")
        queue, number = (queue, number) if equals else (item, "")
        name = re.sub(r"[^a-z0-9_-]+", "-", queue.lower()).strip("-_")[:64]
        if not names.queue_fits(queue) or not names.worker_fits(name):
            answers.wrong(
                "QUEUES",
                "is not a queue name that Redis's ACL and `celery -Q` accept, or is one of Celery's own keys",
                "begin with a letter or digit; use only letters, digits and _ . : @ + ~ / -, as in orders=4,mail",
                item,
            )
        elif equals and not (_COUNT.fullmatch(number) and 1 <= int(number) <= _MOST_PROCESSES):
            answers.wrong(
                "QUEUES",
                "has no number of processes after the =",
                f"write a whole number from 1 to {_MOST_PROCESSES}, or only the queue",
                item,
            )
        elif name in found:
            other = found[name].queue
            answers.wrong(
                "QUEUES",
                "is listed twice"
                if other == queue
                else f"would have a worker of the same name as {other}",
                "write it once"
                if other == queue
                else "leave one, and add it to celery_worker.yml later",
                item,
            )
        else:
            found[name] = NewWorker(name, queue, int(number) if number else None)
    return tuple(found.values())


def read_routes(answers: Answers, queues: Sequence[str]) -> dict[str, str]:
    """Return the pattern of task names and the queue of each of ROUTES."""
    found: dict[str, str] = {}
    for pattern, queue in answers.pairs("ROUTES", "route"):
        if not _ROUTE.fullmatch(pattern):
            answers.wrong(
                "ROUTES",
                "is not a pattern of task names",
                "use letters, digits and _ . - * ? [ ]",
                pattern,
            )
        elif queue not in queues:
            answers.wrong(
                "ROUTES",
                "goes to a queue that is not in QUEUES",
                near(queue, queues),
                f"{pattern}={queue}",
            )
        elif pattern in found:
            answers.wrong("ROUTES", "is listed twice", "leave one queue for it", pattern)
        else:
            found[pattern] = queue
    return found


def read_source(answers: Answers) -> dict[str, str]:
    """Return `celery_app_source`: a directory, or a git repository with its version."""
    text = answers.given.get("SOURCE", "")
    if not text:
        return {}
    directory = answers.given.get("DIRECTORY", "")
    if Path(directory).is_absolute() or ".." in Path(directory).parts:
        answers.wrong(
            "DIRECTORY", "leads outside the source", "write a path below its root, without .."
        )
        directory = ""
    below = {"directory": directory} if directory else {}
    local = source.is_dir(answers.at(text)) or source.is_file(answers.at(text))
    if "://" in text or (re.match(r"[\w.-]+@[\w.-]+:", text) and not local):
        return {**_git(answers, text), **below}
    if "VERSION" in answers.given:
        answers.wrong(
            "VERSION", "belongs to a git repository, but SOURCE is a directory", "leave it out"
        )
    root = answers.at(text)
    if not source.is_dir(root):
        answers.wrong(
            "SOURCE",
            "is a file, not a directory"
            if source.is_file(root)
            else "is not a directory of this machine that you may read",
            f"write the directory of the code, which may be relative to {answers.project.base}, "
            "or the address of a git repository",
        )
    elif what := never_a_source(root):
        answers.wrong(
            "SOURCE",
            f"is {what}, and a release would take all of its files to the hosts",
            "write the directory of the code",
        )
    elif not source.is_dir(root / directory):
        answers.wrong("DIRECTORY", "is not a directory of the source", f"name one below {root}")
    else:
        below |= _code(answers, root, root / directory)
    is_free = source.expand_home(text).is_absolute() or answers.project.has_relative_paths
    return {"path": text if is_free else os.path.normpath(root), **below}


def _code(answers: Answers, root: Path, directory: Path) -> dict[str, str]:
    """Check the code, and return the name of its requirements file unless that is the default."""
    found = source.requirements_in(directory, root)
    if not found:
        answers.wrong(
            "SOURCE",
            f"has no requirements.txt in {directory}, and neither a lock nor a pyproject.toml",
            "write one, with the application's packages; or name the directory that has it in DIRECTORY",
        )
    module = answers.given.get("MODULE", "")
    # Preflight warns of a module that a package has to bring.
    if (
        names.module_fits(module)
        and not source.find_module(directory, module)
        and not source.in_package(directory, module)
    ):
        answers.wrong(
            "MODULE",
            f"is a module that is not below {directory}",
            "write it relative to that, or name the directory that it is imported from in DIRECTORY",
        )
    return {} if source.is_default(found) else {"requirements": found}


def _git(answers: Answers, address: str) -> dict[str, str]:
    if not source.address_fits(address):
        answers.wrong(
            "SOURCE",
            "is not the address of a git repository",
            "write it as in https://git.example.com/team/shop.git or git@git.example.com:team/shop.git",
        )
    elif source.has_login(address):
        # It is not shown, because it may be a real login.
        answers.wrong(
            "SOURCE",
            "contains a login, which would be in a file that is not encrypted",
            f"remove it: {source.FIND_LOGIN}",
            "(not shown)",
        )
    version = answers.given.get("VERSION", "")
    if version and not source.version_fits(version):
        answers.wrong(
            "VERSION", "is not a branch, tag or commit", "name a tag or a commit's full id"
        )
    return {"git": address, "version": version}


def read_web(
    answers: Answers, members: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the command of the web process, and the paths that ask for a password."""
    try:
        command = tuple(shlex.split(answers.given.get("WEB", "")))
    except ValueError as error:
        answers.wrong("WEB", f"is not a command line: {error}", "close its quotes")
        command = ()
    if command and PRODUCERS not in members:
        answers.wrong("WEB", "has no host", "name one in PRODUCERS, or leave WEB out")
    if fault := web_server.socket_fault(command, {}, ""):
        answers.wrong("WEB", *fault)
    protected = answers.items("PROTECT")
    for path in protected:
        if not _PATH.fullmatch(path) or not network.is_request_path(path):
            answers.wrong("PROTECT", "is not a path", "write it as in /admin/", path)
    if protected and "WEB" not in answers.given:
        answers.wrong(
            "PROTECT",
            "has no web process to protect",
            "give its command in WEB, or leave PROTECT out",
        )
    return command, protected


def read_domain(answers: Answers, members: Mapping[str, tuple[str, ...]]) -> str:
    """Return the domain name of the web sites; empty if none was given."""
    domain = answers.fitting(
        "DOMAIN",
        lambda text: _DOMAIN.fullmatch(text) is not None and not network.is_address(text),
        "is not a domain name",
        "write it as in DOMAIN=shop.example.com, in lower case and without https://",
    )
    sites = members.get(FLOWER, ()) + (members.get(PRODUCERS, ()) if "WEB" in answers.given else ())
    if domain and members and not sites:
        answers.wrong(
            "DOMAIN",
            "names a web site, but there is none",
            "give WEB or FLOWER, or leave it out",
        )
    return domain


def _encrypted(scheme: str, *, ours: bool) -> dict[str, str]:
    """Return the options of a database's URL that ask for an encrypted connection; none for an unknown driver.

    Args:
        scheme: The URL's scheme, in which a driver may follow a plus, as SQLAlchemy has it.
        ours: Whether the database is on a host of the fleet.
    """
    name, _, driver = scheme.partition("+")
    if not name.startswith("postgres"):
        return {}
    if driver in _LIBPQ:
        # With channel binding the server also proves that it knows the password's verifier.
        return {"sslmode": "require", **({"channel_binding": "require"} if ours else {})}
    return {"ssl": "require"} if driver == "asyncpg" else {}


def read_database(answers: Answers, hosts: tuple[str, ...]) -> Database | None:
    """Return the parts of DATABASE."""
    text = answers.given.get("DATABASE", "")
    if not text:
        return None
    example = f"write it as in {BY_NAME['DATABASE'].example}"
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        answers.wrong("DATABASE", f"is not a URL: {error}", example, "(not shown)")
        return None
    if parts.password is not None:
        answers.wrong(
            "DATABASE",
            "contains a password, which would stay in the shell's history",
            "remove it: one is generated, and you can replace it with your own afterwards",
            "(not shown)",
        )
        return None
    user, path = unquote(parts.username or ""), unquote(parts.path.lstrip("/"))
    good = _SCHEME.fullmatch(parts.scheme) and _PART.fullmatch(user) and _PART.fullmatch(path)
    if not good or not (HOST.fullmatch(host) or network.is_address(host)):
        answers.wrong(
            "DATABASE",
            "lacks a scheme, a user, a host or a database's name that can be used",
            example,
        )
        return None
    on = hosts[0] if host == "localhost" and len(hosts) == 1 else host if host in hosts else ""
    if host == "localhost" and len(hosts) > 1:
        answers.wrong(
            "DATABASE",
            "is a different database on each host",
            f"name the host that has it, such as {hosts[0]}",
        )
    # Only a checkout has the playbook that installs PostgreSQL.
    on = on if parts.scheme.startswith("postgres") and answers.project.is_checkout else ""
    query = dict(parse_qsl(parts.query)) or _encrypted(parts.scheme, ours=bool(on))
    return Database(parts.scheme, user, host, port, path, query, on)
