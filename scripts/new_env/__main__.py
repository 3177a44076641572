"""Make a new environment: `make new-env`, which hands on its options.

Refused is what can't become a fleet, all of it at once, with exit status 2; then nothing was written.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fleet_control.words import count
from fleet_preflight import source

from . import secret
from .environment import Environment, Place, environment, missing, mistakes
from .files import EXPORTS_FILE, files, shown_directory
from .options import BY_NAME, Mistake, RefusedError, read, usage
from .write import WriteError, write

CHECKOUT: Final = Path(__file__).resolve().parents[2]
REFUSED: Final = 2
INTERRUPTED: Final = 130
#: Where a task goes that nothing sends elsewhere (`task_default_queue`).
CELERYS_QUEUE: Final = "celery"


def place_of(given: Mapping[str, str], checkout: Path = CHECKOUT) -> Place:
    """Where the environment goes."""
    chosen = source.at_home(given.get("INVENTORIES") or "inventories")
    return Place(checkout, Path(os.path.normpath(checkout / chosen)))


def ask(
    given: Mapping[str, str], place: Place, answer: Callable[[str], str], say: Callable[[str], None]
) -> dict[str, str]:
    """The options, with those that were missing asked for, each until it is right.

    Raises:
        EOFError: There are no more answers.
    """
    found = dict(given)
    while wanted := missing(found):
        option = BY_NAME[wanted[0]]
        question = option.question or option.meaning[0].upper() + option.meaning[1:]
        text = answer(f"{question} (such as {option.example}): ").strip()
        if not text:
            continue
        wrong = [
            one
            for one in mistakes({**found, option.name: text}, place)
            if one.option == option.name
        ]
        for one in wrong:
            say(f"  {one.message}. {one.remedy}")
        if not wrong:
            found[option.name] = text
    return found


def make(given: Mapping[str, str], place: Place) -> Environment:
    """Make the environment.

    Raises:
        RefusedError: For what is wrong with the options, or with what came of them.
        WriteError: It could not be written.
    """
    wanted = environment(given, place)
    values = secret.make(wanted)
    if wanted.vault_password_file is None:
        password = secret.password().encode()
    else:
        password = wanted.vault_password_file.read_bytes().strip()

    def check(directory: Path) -> None:
        preflight(wanted, values, directory)

    write(place.inventories / wanted.name, files(wanted, place, values, password), check)
    return wanted


def preflight(wanted: Environment, values: Mapping[str, str], directory: Path) -> None:
    """Let the project's own preflight look at what was made; it contacts no host.

    Args:
        wanted: What was wanted.
        values: Its secrets.
        directory: Where its files are for now.

    Raises:
        RefusedError: With what it says.
    """
    variables = {
        **os.environ,
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    if wanted.secrets == "vault":
        password = wanted.vault_password_file or directory / ".vault-password"
        variables["ANSIBLE_VAULT_IDENTITY_LIST"] = f"{wanted.name}@{password}"
    else:
        variables |= {secret.variable(name): value for name, value in values.items()}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={directory}",
            str(CHECKOUT / "playbooks/check_inventory.yml"),
        ],
        cwd=CHECKOUT,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout + done.stderr
        _, found, reason = output.partition("This inventory is refused")
        # Behind it Ansible says where in our playbook it stands.
        text = (found + re.split(r"\n(?:Origin|fatal):", reason)[0]) if found else output
        raise RefusedError(
            [
                Mistake(
                    "NAME",
                    wanted.name,
                    f"preflight refuses what would be made:\n{text.strip()}",
                    "mend the option that each variable comes from",
                )
            ]
        )


def refusal(found: Sequence[Mistake]) -> str:
    """All mistakes, for a person."""
    lines = [
        f"error: no environment is made, {count(len(found), 'mistake')}. Nothing was written.",
        "",
    ]
    lines += [f"  {number}. {one}" for number, one in enumerate(found, 1)]
    return "\n".join(lines)


def report(wanted: Environment, place: Place) -> str:
    """What was made, and what comes next."""
    directory = shown_directory(wanted, place)
    lines = [f"{directory}/ is made. How it is run stands in {directory}/README.md."]
    if wanted.secrets == "env":
        lines.append(
            f"Its secrets are in {directory}/{EXPORTS_FILE}, which git ignores: put them where your secrets are."
        )
    elif wanted.vault_password_file is None:
        lines.append(
            f"The vault's password is in {directory}/.vault-password, which git ignores: "
            "keep a copy where your passwords are."
        )
    if not wanted.firewall:
        lines.append(
            "The firewall is off: Redis is reached by whoever reaches its host, and asks for passwords. "
            f"See {directory}/group_vars/all/firewall.yml."
        )
    if CELERYS_QUEUE not in {worker.queue for worker in wanted.workers}:
        lines.append(
            f"No worker consumes the queue {CELERYS_QUEUE}, Celery's default: a task that neither a route nor the "
            f"application sends elsewhere is refused. See {directory}/group_vars/all/celery_app.yml."
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Parse, ask, make, print."""
    if any(word in ("-h", "--help", "HELP") for word in words):
        print(usage())
        return 0
    try:
        given, misspelt = read(words, os.environ)
        place = place_of(given)
        if misspelt:
            raise RefusedError([*misspelt, *mistakes(given, place)])
        if missing(given) and sys.stdin.isatty() and sys.stdout.isatty():
            given = ask(given, place, input, print)
        wanted = make(given, place)
    except RefusedError as refused:
        print(refusal(refused.mistakes), file=sys.stderr)
        if any(one.message == "is needed" for one in refused.mistakes):
            print(f"\n{usage()}", file=sys.stderr)
        return REFUSED
    except WriteError as error:
        print(f"error: {error}. Nothing was written.", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("\nerror: interrupted. Nothing was written.", file=sys.stderr)
        return INTERRUPTED
    print(report(wanted, place))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
