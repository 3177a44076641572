"""Makes a new environment, for `make new-env` and the playbook `celery_fleet.core.new_env`.

It refuses options that can't become a fleet, with all mistakes at once. Then nothing is written, and the program's exit
status is 2.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ansible_collections.celery_fleet.core.plugins.module_utils.text import count

from ..preflight.checks import source
from . import secret
from .environment import Environment, Project
from .files import EXPORTS_FILE, configuration, files, shown_directory
from .options import BY_NAME, Mistake, RefusedError, read, usage
from .reading import environment, missing, mistakes
from .write import WriteError, write

# The directory in which Ansible finds this collection.
COLLECTIONS: Final = Path(__file__).parents[6]
INVENTORIES: Final = "inventories"
REFUSED: Final = 2
INTERRUPTED: Final = 130
# The queue of tasks that nothing sends elsewhere (`task_default_queue`).
CELERYS_QUEUE: Final = "celery"


def project_of(given: Mapping[str, str], base: Path) -> Project:
    """Return the directories from which the program reads and to which it writes."""
    chosen = source.expand_home(given.get("INVENTORIES") or INVENTORIES)
    return Project(base, Path(os.path.normpath(base / chosen)))


def ask(
    given: Mapping[str, str],
    project: Project,
    answer: Callable[[str], str],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Return the options after asking for each missing one until it is right.

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
            for one in mistakes({**found, option.name: text}, project)
            if one.option == option.name
        ]
        for one in wrong:
            say(f"  {one.message}. {one.remedy}")
        if not wrong:
            found[option.name] = text
    return found


def make(
    given: Mapping[str, str], project: Project, misspelt: Sequence[Mistake] = ()
) -> Environment:
    """Make the environment.

    Args:
        given: Its options.
        project: The directories of the program.
        misspelt: The mistakes in the options' names.

    Raises:
        RefusedError: The options are wrong, or preflight refuses the result.
        WriteError: It could not be written.
    """
    with _directory(project):
        return _made(given, project, misspelt)


@contextlib.contextmanager
def _directory(project: Project) -> Iterator[None]:
    """Make a project's directory for environments if it has none, and remove it again after an error."""
    made = project.inventories == project.base / INVENTORIES and not os.path.lexists(
        project.inventories
    )
    if made:
        # If that fails, the options are refused with the reason.
        with contextlib.suppress(OSError):
            project.inventories.mkdir()
    try:
        yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                project.inventories.rmdir()
        raise


def _made(given: Mapping[str, str], project: Project, misspelt: Sequence[Mistake]) -> Environment:
    if misspelt:
        raise RefusedError([*misspelt, *mistakes(given, project)])
    wanted = environment(given, project)
    values = secret.make(wanted)
    if wanted.vault_password_file is None:
        password = secret.password().encode()
    else:
        password = wanted.vault_password_file.read_bytes().strip()

    def check(directory: Path) -> None:
        preflight(wanted, values, directory, project)

    # Preflight reads it too, as every later run does.
    with _configuration(project):
        write(project.inventories / wanted.name, files(wanted, project, values, password), check)
    return wanted


@contextlib.contextmanager
def _configuration(project: Project) -> Iterator[None]:
    """Write an `ansible.cfg` for the user's own project if it has none, and remove it again after an error."""
    file = project.base / "ansible.cfg"
    if project.is_checkout or "ANSIBLE_CONFIG" in os.environ or os.path.lexists(file):
        yield
        return
    inside = COLLECTIONS.is_relative_to(project.base)
    text = configuration(str(COLLECTIONS.relative_to(project.base)) if inside else "")
    try:
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise WriteError(f"{file}: {error.strerror}") from error
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def preflight(
    wanted: Environment, values: Mapping[str, str], directory: Path, project: Project
) -> None:
    """Let preflight check the files; it contacts no host.

    Args:
        wanted: The environment.
        values: Its secrets.
        directory: The temporary directory of its files.
        project: The directories of the program.

    Raises:
        RefusedError: Preflight refuses them; the error has its message.
    """
    variables = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
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
            "celery_fleet.core.check_inventory",
        ],
        cwd=project.base,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout + done.stderr
        _, found, reason = output.partition("This inventory is refused")
        # After it Ansible names the line of our playbook.
        text = (found + re.split(r"\n(?:Origin|fatal):", reason)[0]) if found else output
        raise RefusedError(
            [
                Mistake(
                    "NAME",
                    wanted.name,
                    f"preflight refuses the resulting environment:\n{text.strip()}",
                    "correct the option that each variable comes from",
                )
            ]
        )


def refusal(found: Sequence[Mistake]) -> str:
    """Return all mistakes as text."""
    lines = [
        f"error: {count(len(found), 'mistake')} in the options. Nothing was written.",
        "",
    ]
    lines += [f"  {number}. {one}" for number, one in enumerate(found, 1)]
    return "\n".join(lines)


def report(wanted: Environment, project: Project) -> str:
    """Return a text that says what was made and what comes next."""
    directory = shown_directory(wanted, project)
    lines = [f"{directory}/ has been made. {directory}/README.md says how to use it."]
    if wanted.secrets == "env":
        lines.append(
            f"Its secrets are in {directory}/{EXPORTS_FILE}, which git ignores: move them to where your secrets are."
        )
    elif wanted.vault_password_file is None:
        lines.append(
            f"The vault's password is in {directory}/.vault-password, which git ignores: "
            "keep a copy with your other passwords."
        )
    if not wanted.firewall:
        lines.append(
            "The firewall is off: everyone who can reach Redis's host can reach Redis, which asks for passwords. "
            f"See {directory}/group_vars/all/firewall.yml."
        )
    if CELERYS_QUEUE not in {worker.queue for worker in wanted.workers}:
        lines.append(
            f"No worker consumes the queue {CELERYS_QUEUE}, Celery's default: a task that neither a route nor the "
            f"application sends elsewhere is refused. See {directory}/group_vars/all/celery_app.yml."
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Parse the options, ask for missing ones, make the environment, and print the result."""
    if any(word.partition("=")[0] in ("-h", "--help", "HELP") for word in words):
        print(usage())
        return 0
    try:
        given, misspelt = read(words, os.environ)
        project = project_of(given, Path.cwd())
        if not misspelt and missing(given) and sys.stdin.isatty() and sys.stdout.isatty():
            given = ask(given, project, input, print)
        wanted = make(given, project, misspelt)
    except RefusedError as refused:
        print(refusal(refused.mistakes), file=sys.stderr)
        if refused.incomplete:
            print(f"\n{usage()}", file=sys.stderr)
        return REFUSED
    except WriteError as error:
        print(f"error: {error}. Nothing was written.", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("\nerror: interrupted. Nothing was written.", file=sys.stderr)
        return INTERRUPTED
    print(report(wanted, project))
    return 0
