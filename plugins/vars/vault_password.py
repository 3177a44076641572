"""Vars plugin `vault_password`: says which file is encrypted and what to type, where a vault's password was not given.

It has no variables. Ansible itself names neither the file nor a remedy, and preflight comes too late: variables
are read before it.
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.vault import is_encrypted
from ansible.plugins.vars import BaseVarsPlugin

DOCUMENTATION = """
name: vault_password
short_description: Tell what to do where a vault's password was not given
description:
  - Refuses encrypted files of variables if no password of a vault was given, before Ansible does, with the remedy.
options: {}
"""

ANSIBLES_WORDS = "Attempting to decrypt but no vault secrets found"
# "$ANSIBLE_VAULT;1.2;AES256;shop": a file's first line, with the vault's id where it has one.
HEADER = 200


class VarsModule(BaseVarsPlugin):
    """Is asked for each host, group and source of variables; looks at a directory once."""

    # One for a run, in place of one for each question.
    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        """Nothing.

        Raises:
            AnsibleError: A file of variables there is encrypted, and no password was given.
        """
        if not loader._vault.secrets and (found := encrypted(path)):  # noqa: SLF001  # nothing public tells
            raise AnsibleError(remedy(Path(path), found))
        return {}


@cache
def encrypted(directory: str) -> list[tuple[Path, str]]:
    """The whole files of variables that are encrypted, and the id of each one's vault, if it has one."""
    found = []
    for kind in ("group_vars", "host_vars"):
        for file in sorted((Path(directory) / kind).rglob("*")):
            try:
                with file.open("rb") as stream:
                    first = stream.read(HEADER).split(b"\n", 1)[0]
            except OSError:
                # A directory; or what can't be read, which Ansible says itself.
                continue
            if is_encrypted(first):
                words = first.decode(errors="replace").strip().split(";")
                found.append((file, words[3] if len(words) > 3 else ""))
    return found


def remedy(inventory: Path, found: list[tuple[Path, str]]) -> str:
    """What was found, and the line to type."""
    file, identity = found[0]
    beside = inventory / ".vault-password"
    source = beside if beside.is_file() else "prompt"
    value = shlex.quote(f"{identity or 'default'}@{source}")
    return (
        f"{ANSIBLES_WORDS}: {file} is encrypted, and no password was given. Nothing was changed. Type\n"
        f"    export ANSIBLE_VAULT_IDENTITY_LIST={value}\n"
        "and then the same command again. In place of `prompt`, which asks, the name of a file with the password will "
        "do, or of a program that prints it: docs/secrets.md."
    )
