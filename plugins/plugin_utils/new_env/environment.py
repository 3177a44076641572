"""What an environment is made of, and what is refused of the options that describe it."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import (
    names,
    network,
    source,
)

from .options import BY_NAME, NEEDED, OPTIONS, Mistake, RefusedError

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_ROUTE: Final = re.compile(r"[A-Za-z0-9_.*?\[\]-]+")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
# Of the inventory, its groups, or of Ansible itself.
_TAKEN: Final = frozenset(
    {
        *("all", "fleet", "group_vars", "host_vars", "localhost", "pki", "postgresql", "ungrouped"),
        *("celery_beat", "celery_producers", "celery_workers", "flower", "redis"),
    }
)
_MOST_PROCESSES: Final = 1024
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_OFF: Final = "off"

REDIS: Final = "redis"
WORKERS: Final = "celery_workers"
BEAT: Final = "celery_beat"
PRODUCERS: Final = "celery_producers"
FLOWER: Final = "flower"
# In the order of hosts.yml, each with the option that names its hosts.
GROUPS: Final[Mapping[str, str]] = {
    REDIS: "REDIS",
    WORKERS: "WORKERS",
    BEAT: "BEAT",
    PRODUCERS: "PRODUCERS",
    FLOWER: "FLOWER",
}
_OPTIONAL: Final = (BEAT, PRODUCERS, FLOWER)
_SINGLE: Final = (REDIS, BEAT)


@dataclass(frozen=True)
class Place:
    """Where the program runs, and where it writes.

    Attributes:
        base: The directory from which relative paths start: a checkout of Celery Fleet, or a user's own project.
        inventories: The directory that gets the environment's.
    """

    base: Path
    inventories: Path

    @property
    def is_checkout(self) -> bool:
        """Whether this is a checkout of Celery Fleet, and not a project that uses the installed collection."""
        return (self.base / "galaxy.yml").is_file() and (self.base / "playbooks/site.yml").is_file()


@dataclass(frozen=True)
class Worker:
    """A worker with its one queue; `concurrency` is None for Celery's own."""

    name: str
    queue: str
    concurrency: int | None


@dataclass(frozen=True)
class Database:
    """The parts of DATABASE_URL but its password.

    Attributes:
        on: The host of the fleet that PostgreSQL is to be installed on; empty where the database is elsewhere.
    """

    scheme: str
    user: str
    host: str
    port: int | None
    path: str
    query: Mapping[str, str]
    on: str


@dataclass(frozen=True)
class Environment:
    """All that the files of an environment are made of, but for its secrets.

    Attributes:
        members: Group -> its hosts; a group without hosts is left out.
        source: `celery_app_source`.
        addresses: Host -> `ansible_host`, where it has one.
    """

    name: str
    hosts: tuple[str, ...]
    addresses: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]
    app: str
    module: str
    source: Mapping[str, str]
    workers: tuple[Worker, ...]
    routes: Mapping[str, str]
    web: tuple[str, ...]
    protected: tuple[str, ...]
    domain: str
    database: Database | None
    ssh_user: str
    firewall: bool
    secrets: str
    vault_password_file: Path | None

    def has(self, group: str) -> bool:
        """Whether a group has hosts."""
        return group in self.members

    @property
    def addresses_known(self) -> bool:
        """Whether it is known where the connections of each host come from."""
        return all(network.is_address(self.addresses.get(host, host)) for host in self.hosts)


def default_members(hosts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Who does what where nothing else is said: of two hosts one has the workers, of more one has Redis alone."""
    first, *others = hosts
    if not others:
        redis, control, workers = first, first, [first]
    elif len(others) == 1:
        redis, control, workers = first, first, others
    else:
        redis, control, *workers = hosts
    return {
        REDIS: (redis,),
        WORKERS: tuple(workers),
        BEAT: (control,),
        PRODUCERS: (control,),
        FLOWER: (control,),
    }


def environment(given: Mapping[str, str], place: Place) -> Environment:
    """The environment that the options describe.

    Raises:
        RefusedError: With everything that is wrong with them.
    """
    reading = _Reading(given, place)
    found = reading.environment()
    if reading.mistakes:
        # What hangs on a wrong value may be reported from two sides.
        raise RefusedError(list(dict.fromkeys(reading.mistakes)))
    return found


def mistakes(given: Mapping[str, str], place: Place) -> list[Mistake]:
    """Everything that is wrong with the options."""
    try:
        environment(given, place)
    except RefusedError as refused:
        return list(refused.mistakes)
    return []


def missing(given: Mapping[str, str]) -> list[str]:
    """Options that are needed and not there, in the order in which they are asked for."""
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


def _is_name_or_address(text: str) -> bool:
    """Whether SSH could reach it. A name that ends in a number is to resolvers an address, and perhaps another one."""
    if network.is_address(text):
        return "%" not in text
    return _HOST.fullmatch(text) is not None and _NUMBER.fullmatch(text.rpartition(".")[2]) is None


def _plain(text: str) -> str:
    """An address as it is most shortly written; a name as it is."""
    return str(ipaddress.ip_address(text)) if network.is_address(text) else text


def _near(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(words) or '(none)'}"


@dataclass
class _Reading:
    """Reads one option after the other, and keeps what is wrong with them."""

    given: Mapping[str, str]
    place: Place
    mistakes: list[Mistake] = field(default_factory=list)

    def environment(self) -> Environment:
        """The environment; it means nothing where there are mistakes."""
        for option in missing(self.given):
            self._wrong(option, NEEDED, f"say, for example, {option}={BY_NAME[option].example}", "")
        for name, value in self.given.items():
            self._text(name, value)
        hosts = self._hosts()
        members = self._members(hosts)
        addresses = self._addresses(hosts)
        workers = self._workers()
        web, protected = self._web(members)
        if not web and "PRODUCERS" not in self.given:
            members.pop(PRODUCERS, None)
        found = Environment(
            name=self._name(),
            hosts=hosts,
            addresses=addresses,
            members=members,
            app=self._fits(
                "APP",
                names.application_fits,
                "can't be the name of units, users and directories, or is somebody else's on every Debian",
                "begin with a letter; use a-z, 0-9, - and _ only, 25 characters at most",
            ),
            module=self._fits(
                "MODULE",
                names.module_fits,
                "is no module as `celery -A` takes it",
                "write it with dots, as in app.celery_app or app.celery_app:app",
            ),
            source=self._source(),
            workers=workers,
            routes=self._routes([worker.queue for worker in workers]),
            web=web,
            protected=protected,
            domain=self._domain(members),
            database=self._database(hosts),
            ssh_user=self._fits(
                "SSH_USER",
                _matches(_USER),
                "can't be the name of a Unix user",
                "write it as in SSH_USER=deploy",
            ),
            firewall=False,
            secrets=self._choice("SECRETS", ("vault", "env"), "vault"),
            vault_password_file=self._vault_password_file(),
        )
        return _with_firewall(found, self._firewall(found))

    # --- one option each ---------------------------------------------------------------------------

    def _wrong(self, option: str, message: str, remedy: str, value: str | None = None) -> None:
        shown = self.given.get(option, "") if value is None else value
        self.mistakes.append(Mistake(option, shown, message, remedy))

    def _text(self, option: str, value: str) -> None:
        if not value:
            self._wrong(
                option,
                "is empty",
                f"leave it out, or write it as in {option}={BY_NAME[option].example}",
            )
        elif not value.isprintable():
            self._wrong(option, "has a line end or a control character", "write it on one line")
        elif re.search(r"\{[{%#]", value):
            self._wrong(
                option,
                "has what Ansible takes for a template ({{, {% or {#)",
                "write it without, and put the template into the files that are made",
            )

    def _fits(self, option: str, fits: Callable[[str], bool], message: str, remedy: str) -> str:
        value = self.given.get(option, "")
        if value and not fits(value):
            self._wrong(option, message, remedy)
        return value

    def _choice(self, option: str, choices: tuple[str, ...], default: str) -> str:
        value = self.given.get(option) or default
        if value not in choices:
            self._wrong(option, "is not to be chosen from", f"say {' or '.join(choices)}")
        return value

    def _name(self) -> str:
        name = self.given.get("NAME", "")
        if not name:
            return name
        directory = self.place.inventories / name
        if not _NAME.fullmatch(name):
            self._wrong(
                "NAME",
                "can't be the name of an environment: it becomes a directory, and stands on the hosts",
                "begin with a letter; use a-z, 0-9, - and _ only, 40 characters at most",
            )
        elif name in _TAKEN:
            self._wrong(
                "NAME",
                "has a meaning of its own in an inventory",
                f"choose another one, such as {self.given.get('APP') or 'shop'}-production",
            )
        elif os.path.lexists(directory):
            self._wrong(
                "NAME",
                f"is there already: {directory}",
                "choose another name, or edit the files that are there; nothing is ever overwritten",
            )
        elif not source.is_dir(self.place.inventories):
            self._wrong(
                "INVENTORIES",
                "is no directory",
                "make it, or name one that is there",
                str(self.place.inventories),
            )
        elif "," in str(self.place.inventories):
            self._wrong(
                "INVENTORIES",
                "has a comma: Ansible would take its path for a list of hosts",
                "name another directory",
                str(self.place.inventories),
            )
        elif not os.access(self.place.inventories, os.W_OK):
            self._wrong(
                "INVENTORIES",
                "can't be written to by you",
                "name a directory that can",
                str(self.place.inventories),
            )
        return name

    def _items(self, option: str) -> tuple[str, ...]:
        """The items of a list, each once."""
        found: list[str] = []
        for item in filter(None, map(str.strip, self.given.get(option, "").split(","))):
            if item in found:
                self._wrong(option, "is there twice", "write it once", item)
            else:
                found.append(item)
        if self.given.get(option) and not found:
            self._wrong(
                option,
                "has nothing between its commas",
                f"write it as in {BY_NAME[option].example}",
            )
        return tuple(found)

    def _pairs(self, option: str, wanted: str) -> Iterator[tuple[str, str]]:
        """The items of a list of `key=value`."""
        for item in self._items(option):
            key, equals, value = (part.strip() for part in item.rpartition("="))
            if equals and key and value:
                yield key, value
            else:
                self._wrong(
                    option, f"is no {wanted}", f"write it as in {BY_NAME[option].example}", item
                )

    def _hosts(self) -> tuple[str, ...]:
        options = ("HOSTS",) if "HOSTS" in self.given else tuple(GROUPS.values())
        found: dict[str, None] = {}
        for option in options:
            if option != "HOSTS" and self.given.get(option) == _OFF:
                continue
            found |= dict.fromkeys(self._items(option))
        for host in found:
            if not _is_name_or_address(host):
                self._wrong(
                    "HOSTS",
                    "can't be a host's name, which others resolve, and which node names and certificates have",
                    "use a-z, 0-9, dots and dashes only, with commas between hosts; give its address in ADDRESSES",
                    host,
                )
            elif host in _TAKEN:
                self._wrong(
                    "HOSTS",
                    "is the name of a group, or Ansible's own",
                    f"call it, for example, {host}1",
                    host,
                )
        if "HOSTS" in self.given and not found and self.given["HOSTS"]:
            self._wrong(
                "HOSTS", "names no host", f"write it as in HOSTS={BY_NAME['HOSTS'].example}"
            )
        return tuple(found)

    def _members(self, hosts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        default = default_members(hosts) if hosts else {}
        members: dict[str, tuple[str, ...]] = {}
        for group, option in GROUPS.items():
            if option not in self.given:
                # Without HOSTS, who does what is said host by host, and what is not said is not there.
                own = default.get(group, ()) if "HOSTS" in self.given else ()
            elif self.given[option] == _OFF:
                own = ()
                if group not in _OPTIONAL:
                    self._wrong(option, "can't be left out of a fleet", "name its host")
                    continue
            else:
                own = self._items(option)
                for host in own:
                    if "HOSTS" in self.given and host not in hosts:
                        self._wrong(option, "is none of HOSTS", _near(host, hosts), host)
            if not own and group not in _OPTIONAL and hosts and option not in self.given:
                self._wrong(option, "has no host", f"name its host, or say HOSTS={','.join(hosts)}")
            if len(own) > 1 and group in _SINGLE:
                self._wrong(option, "has more than one host", "leave one")
            if own:
                members[group] = own
        idle = set(hosts) - {host for own in members.values() for host in own}
        for host in filter(idle.__contains__, hosts):
            self._wrong(
                "HOSTS", "has nothing to do", "leave it out, or name it in WORKERS, say", host
            )
        return members

    def _addresses(self, hosts: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for host, address in self._pairs("ADDRESSES", "host with its address"):
            if host not in hosts:
                self._wrong("ADDRESSES", "is an address of none of HOSTS", _near(host, hosts), host)
            elif host in found:
                self._wrong("ADDRESSES", "has two addresses", "leave one", host)
            elif other := next(
                (one for one, its in found.items() if _plain(its) == _plain(address)), ""
            ):
                self._wrong(
                    "ADDRESSES",
                    f"has the address of {other}",
                    "give each host its own; one host that does everything stands in HOSTS once",
                    f"{host}={address}",
                )
            elif not _is_name_or_address(address.lower()):
                self._wrong(
                    "ADDRESSES",
                    "is no address and no name",
                    "write it as in 10.1.0.11; what else SSH has to know, such as a port, goes into hosts.yml later",
                    f"{host}={address}",
                )
            elif len(hosts) > 1 and network.is_address(address) and not _is_reachable(address):
                self._wrong(
                    "ADDRESSES",
                    "is no address at which other hosts find it",
                    "write the one that they use",
                    f"{host}={address}",
                )
            else:
                found[host] = address
        return found

    def _workers(self) -> tuple[Worker, ...]:
        if "QUEUES" not in self.given:
            return (Worker("celery", "celery", None),)
        found: dict[str, Worker] = {}
        for item in self._items("QUEUES"):
            queue, equals, number = item.rpartition("=")
            queue, number = (queue, number) if equals else (item, "")
            name = re.sub(r"[^a-z0-9_-]+", "-", queue.lower()).strip("-_")[:64]
            if not names.queue_fits(queue) or not names.worker_fits(name):
                self._wrong(
                    "QUEUES",
                    "is no queue's name that Redis's ACL and `celery -Q` can take, or one of Celery's own keys",
                    "begin with a letter or digit; use letters, digits and _ . : @ + ~ / - only, as in orders=4,mail",
                    item,
                )
            elif equals and not (_COUNT.fullmatch(number) and 1 <= int(number) <= _MOST_PROCESSES):
                self._wrong(
                    "QUEUES",
                    "has no number of processes behind its =",
                    f"write a whole number from 1 to {_MOST_PROCESSES}, or the queue alone",
                    item,
                )
            elif name in found:
                other = found[name].queue
                self._wrong(
                    "QUEUES",
                    "is there twice"
                    if other == queue
                    else f"would have a worker of the same name as {other}",
                    "write it once"
                    if other == queue
                    else "leave one, and add it to celery_worker.yml later",
                    item,
                )
            else:
                found[name] = Worker(name, queue, int(number) if number else None)
        return tuple(found.values())

    def _routes(self, queues: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for pattern, queue in self._pairs("ROUTES", "route"):
            if not _ROUTE.fullmatch(pattern):
                self._wrong(
                    "ROUTES",
                    "is no pattern of task names",
                    "use letters, digits and _ . - * ? [ ]",
                    pattern,
                )
            elif queue not in queues:
                self._wrong(
                    "ROUTES", "goes to none of QUEUES", _near(queue, queues), f"{pattern}={queue}"
                )
            elif pattern in found:
                self._wrong("ROUTES", "is there twice", "leave one queue for it", pattern)
            else:
                found[pattern] = queue
        return found

    def _source(self) -> dict[str, str]:
        text = self.given.get("SOURCE", "")
        if not text:
            return {}
        directory = self.given.get("DIRECTORY", "")
        if Path(directory).is_absolute() or ".." in Path(directory).parts:
            self._wrong(
                "DIRECTORY", "leads out of the source", "write a path below its root, without .."
            )
            directory = ""
        below = {"directory": directory} if directory else {}
        local = source.is_dir(self._at(text)) or source.is_file(self._at(text))
        if "://" in text or (re.match(r"[\w.-]+@[\w.-]+:", text) and not local):
            return {**self._git(text), **below}
        if "VERSION" in self.given:
            self._wrong(
                "VERSION", "belongs to a git repository, and SOURCE is a directory", "leave it out"
            )
        root = self._at(text)
        if not source.is_dir(root):
            self._wrong(
                "SOURCE",
                "is a file, not a directory"
                if source.is_file(root)
                else "is no directory of this machine that you may read",
                f"write the directory of the code, relative ones as seen from {self.place.base}, "
                "or the address of a git repository",
            )
        elif not source.is_dir(root / directory):
            self._wrong("DIRECTORY", "is no directory of the source", f"name one below {root}")
        else:
            self._code(root, root / directory)
        return {"path": text, **below}

    def _code(self, root: Path, directory: Path) -> None:
        if not any(source.is_file(place / "requirements.txt") for place in (directory, root)):
            self._wrong(
                "SOURCE",
                f"has no requirements.txt in {directory}",
                "write one, with the application's packages; or name the directory that has it in DIRECTORY",
            )
        module = self.given.get("MODULE", "")
        if names.module_fits(module) and not source.find_module(directory, module):
            self._wrong(
                "MODULE",
                f"is a module that is not below {directory}",
                "write it as seen from there, or name the directory that it is imported from in DIRECTORY",
            )

    def _git(self, address: str) -> dict[str, str]:
        if not source.address_fits(address):
            self._wrong(
                "SOURCE",
                "is no address of a git repository",
                "write it as in https://git.example.com/team/shop.git or git@git.example.com:team/shop.git",
            )
        elif source.has_login(address):
            # Not shown: it may be a real one.
            self._wrong(
                "SOURCE",
                "has a login in it, which would stand in a file that is not encrypted",
                f"leave it out: {source.FIND_LOGIN}",
                "(not shown)",
            )
        version = self.given.get("VERSION", "")
        if version and not source.version_fits(version):
            self._wrong(
                "VERSION", "is no branch, tag or commit", "name a tag or a commit's full id"
            )
        return {"git": address, "version": version}

    def _at(self, text: str) -> Path:
        return self.place.base / source.at_home(text)

    def _web(
        self, members: Mapping[str, tuple[str, ...]]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        try:
            command = tuple(shlex.split(self.given.get("WEB", "")))
        except ValueError as error:
            self._wrong("WEB", f"is no command line: {error}", "close its quotes")
            command = ()
        if command and PRODUCERS not in members:
            self._wrong("WEB", "has no host", "name one in PRODUCERS, or leave WEB out")
        protected = self._items("PROTECT")
        for path in protected:
            if not _PATH.fullmatch(path) or not network.protects(path):
                self._wrong("PROTECT", "is no path", "write it as in /admin/", path)
        if protected and "WEB" not in self.given:
            self._wrong(
                "PROTECT",
                "has no web process to protect",
                "give its command in WEB, or leave PROTECT out",
            )
        return command, protected

    def _domain(self, members: Mapping[str, tuple[str, ...]]) -> str:
        domain = self._fits(
            "DOMAIN",
            lambda text: _DOMAIN.fullmatch(text) is not None and not network.is_address(text),
            "is no domain name",
            "write it as in DOMAIN=shop.example.com, in small letters and without https://",
        )
        sites = members.get(FLOWER, ()) + (
            members.get(PRODUCERS, ()) if "WEB" in self.given else ()
        )
        if domain and members and not sites:
            self._wrong(
                "DOMAIN",
                "names a web site, and there is none",
                "give WEB or FLOWER, or leave it out",
            )
        return domain

    def _database(self, hosts: tuple[str, ...]) -> Database | None:
        text = self.given.get("DATABASE", "")
        if not text:
            return None
        example = f"write it as in {BY_NAME['DATABASE'].example}"
        try:
            parts = urlsplit(text)
            port, host = parts.port, parts.hostname or ""
        except ValueError as error:
            self._wrong("DATABASE", f"is no URL: {error}", example, "(not shown)")
            return None
        if parts.password is not None:
            self._wrong(
                "DATABASE",
                "has a password in it, which would stay in the shell's history",
                "leave it out: one is made; your own is put in its place afterwards",
                "(not shown)",
            )
            return None
        user, path = unquote(parts.username or ""), unquote(parts.path.lstrip("/"))
        good = _SCHEME.fullmatch(parts.scheme) and _PART.fullmatch(user) and _PART.fullmatch(path)
        if not good or not (_HOST.fullmatch(host) or network.is_address(host)):
            self._wrong(
                "DATABASE",
                "lacks a scheme, a user, a host or a database's name that one could use",
                example,
            )
            return None
        on = hosts[0] if host == "localhost" and len(hosts) == 1 else host if host in hosts else ""
        if host == "localhost" and len(hosts) > 1:
            self._wrong(
                "DATABASE",
                "is another one on each host",
                f"name the host that has it, such as {hosts[0]}",
            )
        on = on if parts.scheme.startswith("postgres") else ""
        query = dict(parse_qsl(parts.query))
        if not query and parts.scheme.startswith("postgres"):
            # Encrypted; and by channel binding the server proves that it knows the password's verifier.
            query = {"sslmode": "require", **({"channel_binding": "require"} if on else {})}
        return Database(parts.scheme, user, host, port, path, query, on)

    def _firewall(self, found: Environment) -> bool:
        choice = self._choice("FIREWALL", ("on", "off"), "on")
        if len(found.hosts) < 2 or found.addresses_known:
            return choice == "on"
        if "FIREWALL" in self.given and choice == "on":
            unknown = [
                host
                for host in found.hosts
                if not network.is_address(found.addresses.get(host, host))
            ]
            self._wrong(
                "FIREWALL",
                f"needs the address of each host, and there is none of {', '.join(unknown)}",
                "give them in ADDRESSES; a name would have to be resolved before the network is up",
            )
        return False

    def _vault_password_file(self) -> Path | None:
        option = "VAULT_PASSWORD_FILE"
        text = self.given.get(option, "")
        if option not in self.given:
            return None
        if self.given.get("SECRETS") == "env":
            self._wrong(option, "is of no use with SECRETS=env", "leave one of them out")
        path = self._at(text)
        another = "name a file with the password in it, or leave it out: then one is made"
        if not text:
            return None
        if not source.is_file(path):
            self._wrong(option, "is no file that you may read", another)
        elif os.access(path, os.X_OK):
            self._wrong(
                option,
                "is a program, which Ansible would run for the password",
                "encrypt with it yourself: make the environment without this option, then `ansible-vault rekey`",
            )
        elif path.stat().st_mode & 0o077:
            self._wrong(
                option,
                "can be read by others on this machine",
                f"chmod 600 {shlex.quote(str(path))}",
            )
        elif "," in str(path):
            self._wrong(option, "has a comma, by which Ansible parts several files", "rename it")
        elif (content := _content(path)) is None:
            self._wrong(option, "can't be read by you", another)
        elif not content.strip():
            self._wrong(option, "is empty: a vault has a password", another)
        return path


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _is_reachable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
    )


def _with_firewall(found: Environment, firewall: bool) -> Environment:
    return Environment(**{**vars(found), "firewall": firewall})
