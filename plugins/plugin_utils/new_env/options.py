"""The options of a new environment, and how they are read from a command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with what was given.

    Attributes:
        option: Whose value is wrong.
        value: The value, as it was given; empty where there is none.
        message: What is wrong, as the end of a sentence that begins with the option.
        remedy: What to do.
    """

    option: str
    value: str
    message: str
    remedy: str

    def __str__(self) -> str:
        shown = f"{self.option}={self.value!r}" if self.value else self.option
        return f"{shown}\n     {self.message}\n     Remedy: {self.remedy}"


#: The message of an option that is missing.
NEEDED: Final = "is needed"


class RefusedError(Exception):
    """What was given can't become an environment; `mistakes` has all that is wrong with it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)

    @property
    def incomplete(self) -> bool:
        """Whether an option is missing."""
        return any(one.message == NEEDED for one in self.mistakes)


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: As it is typed, in capitals.
        meaning: For the list of options.
        example: A value.
        question: How it is asked for on a terminal where it is missing; empty for one that is not needed.
    """

    name: str
    meaning: str
    example: str
    question: str = ""


OPTIONS: Final = (
    Option(
        "NAME",
        "the environment's name and directory",
        "shop-production",
        "Name of the environment, which is its directory below inventories/",
    ),
    Option(
        "HOSTS",
        "its hosts. One takes everything; of two the second takes the workers; of more the first takes Redis, "
        "the second beat, web process and Flower, all others workers",
        "redis1,control1,worker1,worker2",
        "Its hosts, with commas between them",
    ),
    Option(
        "APP",
        "the application's name, a prefix of all that is put on hosts",
        "shop",
        "Name of the application, a prefix of its units, users and directories",
    ),
    Option(
        "MODULE",
        "what you give to `celery -A`",
        "shop.celery_app",
        "Its module, as `celery -A` takes it",
    ),
    Option(
        "SOURCE",
        "a directory of this machine, or the address of a git repository",
        "https://git.example.com/team/shop.git",
        "Where its code is: a directory of this machine, or the address of a git repository",
    ),
    Option("VERSION", "with git: a tag or a commit", "v1.0.0"),
    Option("DIRECTORY", "where in the source the code and requirements.txt are", "backend"),
    Option(
        "ADDRESSES",
        "how hosts are reached, where not by name",
        "redis1=10.1.0.11,worker1=10.1.0.12",
    ),
    Option("REDIS", "the host of Redis, in place of the choice above", "redis1"),
    Option("WORKERS", "the hosts of workers", "worker1,worker2"),
    Option("BEAT", "the host of beat; off for none", "control1"),
    Option(
        "PRODUCERS",
        "the hosts of the web process, and others that send tasks; off for none",
        "control1",
    ),
    Option("FLOWER", "the host of Flower; off for none", "control1"),
    Option(
        "QUEUES",
        "the queues, a worker for each, with the number of its processes; by default celery, Celery's own",
        "orders=4,mail=2,reports",
    ),
    Option("ROUTES", "which tasks go to which queue", "shop.tasks.send_*=mail"),
    Option(
        "WEB",
        "command of the web process, which listens on file descriptor 3; without it there is none",
        "python -m uvicorn shop.main:app --fd 3",
    ),
    Option("PROTECT", "paths of the web process that ask for a password", "/admin/"),
    Option("DOMAIN", "the name by which users reach web process and Flower", "shop.example.com"),
    Option(
        "DATABASE",
        "DATABASE_URL of the application, without its password, which is made",
        "postgresql://shop@db1.example.com/shop",
    ),
    Option("SSH_USER", "who logs in by key and may become root by sudo", "deploy"),
    Option(
        "FIREWALL",
        "on or off: whether nobody but the fleet reaches Redis; by default where the addresses of all hosts are known",
        "on",
    ),
    Option("SECRETS", "vault, or env for environment variables of whoever deploys", "env"),
    Option(
        "VAULT_PASSWORD_FILE",
        "a file with the vault's password; by default one is made",
        "~/.vault-shop",
    ),
    Option("INVENTORIES", "the directory that gets the environment", "inventories"),
)
BY_NAME: Final[Mapping[str, Option]] = {option.name: option for option in OPTIONS}
# Of make itself and of the Makefile, which hands on whatever is set on its command line.
_OF_MAKE: Final = frozenset({"PYTHON", "SHELL", "MAKEFLAGS", "CURDIR"})


MAKE: Final = "make new-env"
PLAYBOOK: Final = "ansible-playbook celery_fleet.core.new_env"


def usage(command: str = MAKE) -> str:
    """How a command is called, with all options."""
    words = "NAME=… HOSTS=… APP=… MODULE=… SOURCE=… [OPTION=…]…"
    if command == PLAYBOOK:
        words = f"-e '{words}'"
    lines = [f"usage: {command} {words}", ""]
    for option in OPTIONS:
        needed = " (needed)" if option.question else ""
        lines += [
            f"  {option.name:<20} {option.meaning}{needed}",
            f"  {'':<20} {option.name}={option.example}",
        ]
    if command == MAKE:
        lines += ["", "On a terminal the needed ones are asked for where they are missing."]
    return "\n".join(lines)


def read(
    words: Iterable[str], environment: Mapping[str, str]
) -> tuple[dict[str, str], list[Mistake]]:
    """The options of a command line, and what is wrong with their names.

    Args:
        words: Each `OPTION=value`, or `OPTION` alone, whose value then is that of the environment variable. So the
            Makefile hands on what it was given, which no shell has to quote.
        environment: The variables of the process.
    """
    found: dict[str, str] = {}
    mistakes = []
    for word in words:
        name, assigned, value = word.partition("=")
        if not assigned:
            if name in _OF_MAKE:
                continue
            value = environment.get(name, "")
        if name not in BY_NAME:
            near = difflib.get_close_matches(name.upper(), BY_NAME, n=1, cutoff=0.6)
            remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(BY_NAME)}"
            mistakes.append(Mistake(name, "", "is no option of new-env", remedy))
        elif name in found:
            mistakes.append(Mistake(name, value, "is given twice", "give it once"))
        else:
            found[name] = value.strip()
    return found, mistakes
