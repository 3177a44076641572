"""Lists the options of a new environment, and reads them from a command line."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Mistake:
    """A mistake in an option.

    Attributes:
        option: The option's name.
        value: The value, as it was given; empty if there is none.
        message: What is wrong, as the rest of a sentence that begins with the option.
        remedy: What to do.
    """

    option: str
    value: str
    message: str
    remedy: str

    def __str__(self) -> str:
        shown = f"{self.option}={self.value!r}" if self.value else self.option
        return f"{shown}\n     {self.message}\n     Remedy: {self.remedy}"


# The message of an option that is missing.
NEEDED: Final = "is needed"


class RefusedError(Exception):
    """The options can't become an environment; `mistakes` has all that is wrong with them."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)

    @property
    def incomplete(self) -> bool:
        """Whether a required option is missing."""
        return any(one.message == NEEDED for one in self.mistakes)


@dataclass(frozen=True)
class CommandOption:
    """An option of the command.

    Attributes:
        name: Its name in capitals, as users type it.
        meaning: Its text in the list of options.
        example: An example of its value.
        question: The question on a terminal if it is missing; empty for one that is not needed.
    """

    name: str
    meaning: str
    example: str
    question: str = ""

    @property
    def typed(self) -> str:
        """The option with its example, as it is typed in a shell or among Ansible's extra variables."""
        return (
            f'{self.name}="{self.example}"'
            if " " in self.example
            else f"{self.name}={self.example}"
        )


OPTIONS: Final = (
    CommandOption(
        "NAME",
        "the environment's name and directory",
        "shop-production",
        "Name of the environment, which is its directory below inventories/",
    ),
    CommandOption(
        "HOSTS",
        "its hosts. A single host runs everything; the second of two runs the workers; of more, the first runs Redis, "
        "the second beat, the web process and Flower, and all others workers",
        "redis1,control1,worker1,worker2",
        "Its hosts, with commas between them",
    ),
    CommandOption(
        "APP",
        "the application's name, a prefix of everything on the hosts",
        "shop",
        "Name of the application, a prefix of its units, users and directories",
    ),
    CommandOption(
        "MODULE",
        "the argument of `celery -A`",
        "shop.celery_app",
        "Its module, the argument of `celery -A`",
    ),
    CommandOption(
        "SOURCE",
        "a directory of this machine, or the address of a git repository",
        "https://git.example.com/team/shop.git",
        "Where its code is: a directory of this machine, or the address of a git repository",
    ),
    CommandOption("VERSION", "with git: a tag or a commit", "v1.0.0"),
    CommandOption("DIRECTORY", "where in the source the code and requirements.txt are", "backend"),
    CommandOption(
        "ADDRESSES",
        "addresses of hosts that can't be reached by name",
        "redis1=10.1.0.11,worker1=10.1.0.12",
    ),
    CommandOption(
        "REDIS",
        "the host of Redis, or three or five of which one may fail, instead of the choice above",
        "redis1",
    ),
    CommandOption("WORKERS", "the hosts of workers", "worker1,worker2"),
    CommandOption("BEAT", "the host of beat; off for none", "control1"),
    CommandOption(
        "PRODUCERS",
        "the hosts of the web process, and others that send tasks; off for none",
        "control1",
    ),
    CommandOption("FLOWER", "the host of Flower; off for none", "control1"),
    CommandOption(
        "QUEUES",
        "the queues, each with a worker and its number of processes; by default celery, Celery's default queue",
        "orders=4,mail=2,reports",
    ),
    CommandOption("ROUTES", "which tasks go to which queue", "shop.tasks.send_*=mail"),
    CommandOption(
        "WEB",
        "command of the web process, which listens on file descriptor 3; without it there is no web process",
        "python -m uvicorn shop.main:app --fd 3",
    ),
    CommandOption("PROTECT", "paths of the web process that ask for a password", "/admin/"),
    CommandOption(
        "DOMAIN", "the name with which users reach the web process and Flower", "shop.example.com"
    ),
    CommandOption(
        "DATABASE",
        "DATABASE_URL of the application, without the password, which is generated",
        "postgresql://shop@db1.example.com/shop",
    ),
    CommandOption(
        "SSH_USER", "the user who logs in by key and may become root with sudo", "deploy"
    ),
    CommandOption(
        "FIREWALL",
        "on or off: whether only the fleet can reach Redis; by default on if the addresses of all hosts are known",
        "on",
    ),
    CommandOption(
        "SECRETS", "vault, or env for environment variables of the user who deploys", "env"
    ),
    CommandOption(
        "VAULT_PASSWORD_FILE",
        "a file with the vault's password; by default one is generated",
        "~/.vault-shop",
    ),
    CommandOption("INVENTORIES", "the directory in which the environment is made", "inventories"),
)
BY_NAME: Final[Mapping[str, CommandOption]] = {option.name: option for option in OPTIONS}
# Variables of make itself: the Makefile passes on everything that is set on its command line.
_OF_MAKE: Final = frozenset({"PYTHON", "SHELL", "MAKEFLAGS", "CURDIR"})


# Where Ansible puts the words of extra variables that have no `=`.
RAW: Final = "_raw_params"
MAKE: Final = "make new-env"
PLAYBOOK: Final = "ansible-playbook celery_fleet.core.new_env"


def usage(command: str = MAKE) -> str:
    """Return the usage of a command, with all options."""
    words = "NAME=… HOSTS=… APP=… MODULE=… SOURCE=… [OPTION=…]…"
    if command == PLAYBOOK:
        words = f"-e '{words}'"
    lines = [f"usage: {command} {words}", ""]
    for option in OPTIONS:
        needed = " (needed)" if option.question else ""
        lines += [
            f"  {option.name:<20} {option.meaning}{needed}",
            f"  {'':<20} {option.typed}",
        ]
    if command == MAKE:
        lines += ["", "On a terminal it asks for needed options that are missing."]
    return "\n".join(lines)


def words_of(variables: Mapping[str, Any]) -> tuple[list[str], list[Mistake]]:
    """Return Ansible's extra variables as the words of a command line, and the mistakes in their form.

    In JSON and YAML, a value may be a list, and `off` and `on` are booleans.
    """
    words = []
    mistakes = []
    for name, value in variables.items():
        if name == RAW:
            mistakes.append(
                Mistake(
                    "-e",
                    "",
                    f"has words without an option: {value}",
                    f"put a value with blanks in quotes, as in {BY_NAME['WEB'].typed}; write lists without blanks",
                )
            )
            continue
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, (str, bool, int, float)) for item in items):
            mistakes.append(
                Mistake(
                    name,
                    "",
                    "is neither a text nor a list of texts",
                    f"write it as in {BY_NAME[name].typed}" if name in BY_NAME else "remove it",
                )
            )
            continue
        texts = [("off", "on")[item] if isinstance(item, bool) else str(item) for item in items]
        # It is a command, whose words may have commas and blanks.
        joined = shlex.join(texts) if name == "WEB" and texts != [value] else ",".join(texts)
        words.append(f"{name}={joined}")
    return words, mistakes


def read(
    words: Iterable[str], environment: Mapping[str, str]
) -> tuple[dict[str, str], list[Mistake]]:
    """Return the options of a command line, and the mistakes in their names.

    Args:
        words: Each is `OPTION=value`, or only `OPTION` to use the value of the environment variable. The Makefile
            passes values in this way, so that no shell has to quote them.
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
            mistakes.append(Mistake(name, "", "is not an option of new-env", remedy))
        elif name in found:
            mistakes.append(Mistake(name, value, "is given twice", "give it once"))
        else:
            found[name] = value.strip()
    return found, mistakes
