"""Vars plugin `variable_files`: reads the inventory's files of variables first, to name the place of a mistake.

It returns no variables. Ansible reads the same files later, but then does not name the file of a YAML error or of a
wrong vault password. Before any playbook is read, it also refuses an ansible-core that is too old or does not find the
collection. For the latter the playbooks have this directory beside them as `vars_plugins`, so this file has to work
with any version and configuration of Ansible.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: variable_files
short_description: Report mistakes in files of variables, with their places
description:
  - Refuses files of variables that are not valid YAML, or are encrypted with another password, and names them.
  - Refuses a run with an ansible-core that is too old, or that does not find the collection, with the remedy.
options:
  stage:
    description: When it runs; while the inventory is read, so before any playbook is read.
    type: str
    choices: [inventory]
    default: inventory
"""

import os
import re
import shlex
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.host import Host
from ansible.parsing.vault import AnsibleVaultError, is_encrypted
from ansible.plugins.vars import BaseVarsPlugin
from ansible.release import __version__

COLLECTION = "celery_fleet.core"
ROOT = Path(__file__).resolve().parents[2]
# The same as in preflight/checks/control.py, which can't be imported if Ansible does not find the collection.
OLDEST = (2, 19)
ANSIBLES_WORDS = "Attempting to decrypt but no vault secrets found"
# Bytes that contain a file's first line, such as "$ANSIBLE_VAULT;1.2;AES256;shop", with the vault's id if it has one.
HEADER = 200
# A value that YAML reads as an alias or as nothing, such as the */6 of a crontab, and the key before it.
UNQUOTED = re.compile(r"(?:(?P<key>[\w-]+)[\"']?:|-)[ \t]+(?P<sign>[*@%`])")


class VarsModule(BaseVarsPlugin):
    """The plugin that Ansible calls for each host, group and source of variables."""

    # Ansible makes one instance for a run instead of one for each call.
    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        """Return nothing.

        Raises:
            AnsibleError: A file of variables there can't be read, or Ansible itself can't be used. A file that is not
                valid is an AnsibleParserError, with which Ansible ends with status 4.
        """
        refuse_ansible()
        if not loader._vault.secrets and (found := encrypted(path)):  # noqa: SLF001  # nothing public tells
            raise AnsibleError(remedy(Path(path), found))
        for entity in entities if isinstance(entities, list) else [entities]:
            folder = "host_vars" if isinstance(entity, Host) else "group_vars"
            if os.path.isdir(os.path.join(path, folder)) and not entity.name.startswith(
                os.path.sep
            ):
                seen: dict[str, str] = {}
                for each in loader.find_vars_files(os.path.join(path, folder), entity.name):
                    file = os.fsdecode(each)
                    for name in self._read(loader, path, file):
                        if (before := seen.setdefault(name, file)) != file:
                            self._display.warning(twice(name, before, file))
        return {}

    def _read(self, loader: Any, inventory: str, file: str) -> Mapping[str, Any]:
        """Read a file like Ansible, which then has it in its cache; an error in its YAML names the place."""
        refuse_encoding(file)
        try:
            found = loader.load_from_file(file, cache="all", unsafe=True, trusted_as_template=True)
        except AnsibleVaultError:
            raise AnsibleError(wrong_password(Path(inventory), Path(file))) from None
        except AnsibleError as error:
            if reason := unquoted(Path(file), error):
                raise AnsibleParserError(reason) from None
            raise
        if found and not isinstance(found, Mapping):
            raise AnsibleParserError(
                f"{file} has no variables: it is a {'list' if isinstance(found, list) else 'text'}. Write each as "
                "`name: value`, or move the file elsewhere."
            )
        return found or {}


@cache
def refuse_ansible() -> None:
    """Refuse an Ansible that Celery Fleet can't run with; checked once, not for each host.

    Raises:
        AnsibleError: Its version is too old, or it does not find the collection.
    """
    refuse_version(__version__)
    try:
        import_module(f"ansible_collections.{COLLECTION}")
    except ImportError:
        raise AnsibleError(
            f"Ansible does not find the collection {COLLECTION} of this playbook. Nothing was changed. Type\n"
            f"    export ANSIBLE_COLLECTIONS_PATH={shlex.quote(str(ROOT / 'collections'))}\n"
            "and then the same command again."
        ) from None


def refuse_version(version: str) -> None:
    """Refuse an ansible-core that is too old for our plugins.

    Raises:
        AnsibleError: It is too old.
    """
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise AnsibleError(
            f"This is ansible-core {version}, but Celery Fleet needs {oldest} or newer. Nothing was changed. Install a "
            f"newer one (`pip install 'ansible-core>={oldest}'`). In a checkout, `make setup` does so: use its "
            ".venv/bin/ansible-playbook."
        )


@cache
def refuse_encoding(file: str) -> None:
    """Refuse a file of variables that is not in UTF-8; checked once, not for each host.

    Raises:
        AnsibleParserError: It is in another encoding.
    """
    content = Path(file).read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AnsibleParserError(
            f"{file}:{line} is not in UTF-8. Save the file in UTF-8, for example with `iconv -f latin1 -t utf8`."
        ) from None


def unquoted(file: Path, error: AnsibleError) -> str:
    """Return a message for a YAML error that is a missing pair of quotes; an empty string for another error.

    Ansible names another reason. The value is not shown, since it may be a password.
    """
    mark = getattr(error.__cause__, "problem_mark", None)
    if mark is None:
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = UNQUOTED.search(lines[mark.line]) if mark.line < len(lines) else None
    if found is None:
        return ""
    key = f" of `{found['key']}`" if found["key"] else ""
    return (
        f"{file}:{mark.line + 1}:{found.start('sign') + 1} is not valid YAML: the value{key} begins with "
        f'{found["sign"]}, so it has to be in quotes, as in hour: "*/6".'
    )


@cache
def encrypted(directory: str) -> list[tuple[Path, str]]:
    """Return the files of variables that are encrypted as a whole, each with its vault id or an empty string."""
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
    """Return a message that names the encrypted file and the line to type."""
    file, identity = found[0]
    return (
        f"{ANSIBLES_WORDS}: {file} is encrypted, but no password was given. Nothing was changed. Type\n"
        f"{_export(inventory, identity)}"
        "and then the same command again. Instead of `prompt`, which asks, you can write the name of a file with the "
        "password, or of a program that prints it: docs/secrets.md."
    )


def twice(name: str, before: str, file: str) -> str:
    """Return the warning about a variable that two files of one group or host set."""
    return (
        f"{name} is set in {before} and again in {file}, which wins. Remedy: remove one of the two"
    )


def wrong_password(inventory: Path, file: Path) -> str:
    """Return a message for a file that none of the given passwords opens, with the remedy."""
    identity = dict(encrypted(str(inventory))).get(file, "")
    label = f" (it was encrypted with that of the vault id {identity})" if identity else ""
    return (
        f"{file} can't be decrypted: none of the given vault passwords opens it{label}. Nothing was changed. Find "
        "the right one, pass it with\n"
        f"{_export(inventory, identity)}"
        "and type the same command again. If that password is lost, write the file again with new secrets: "
        "docs/secrets.md."
    )


def _export(inventory: Path, identity: str) -> str:
    source = inventory / ".vault-password"
    value = shlex.quote(f"{identity or 'default'}@{source if source.is_file() else 'prompt'}")
    return f"    export ANSIBLE_VAULT_IDENTITY_LIST={value}\n"
