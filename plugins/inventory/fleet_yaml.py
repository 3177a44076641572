"""Inventory plugin `fleet_yaml`: Ansible's own `yaml`, with the line and column of a mistake.

Files in INI and those of inventory plugins are left to Ansible's own `ini` and `auto`.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_yaml
short_description: Reads inventories as Ansible's own yaml does, and says where a mistake is
description:
  - The same as P(ansible.builtin.yaml#inventory), which names no line of a file that is no YAML.
  - Refuses what that skips with a warning, such as C(host) in place of C(hosts).
  - Skips certificates, keys and files that ansible-vault has encrypted, unless they end like YAML.
  - Hands files in INI to P(ansible.builtin.ini#inventory), and those of inventory plugins to
    P(ansible.builtin.auto#inventory).
options:
  yaml_extensions:
    description: Endings of the files that it reads.
    type: list
    elements: str
    default: [".yaml", ".yml", ".json"]
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.parsing.vault import is_encrypted
from ansible.plugins.inventory import BaseFileInventoryPlugin, yaml
from ansible.plugins.loader import inventory_loader

SECTIONS: Final = ("hosts", "children", "vars")
KINDS: Final = {
    bool: "a boolean",
    str: "a string",
    list: "a list",
    int: "a number",
    float: "a number",
}
# A line such as [redis] or [fleet:children].
SECTION: Final = re.compile(r"^\[[\w.:-]+\][ \t]*([#;].*)?$", re.MULTILINE)
# A certificate or a key, which variables look up beside the inventory.
ARMOURED: Final = re.compile(r"^-----BEGIN [A-Z0-9 ]+-----", re.MULTILINE)
BELONGS: Final = "Groups and hosts are in the hosts file; files of variables are in group_vars and host_vars beside it."


def kind(value: object) -> str:
    """Return what YAML calls a value."""
    return next((word for form, word in KINDS.items() if isinstance(value, form)), "something else")


def is_beside(path: Path, text: str) -> bool:
    """Return whether a file without hosts may be beside those with hosts: a certificate, a key, a README."""
    # Encrypted and without an ending it may be an inventory.
    is_sealed = bool(path.suffix) and is_encrypted(text)
    return path.name == "README" or is_sealed or ARMOURED.search(text) is not None


class MistakeError(AnsibleParserError):
    """Has the place of a mistake in its text: a place beside the text makes Ansible print the text twice."""

    _formatted_source_context = None

    def __init__(self, error: AnsibleError) -> None:
        """Take the text of an error, and the lines of the file that Ansible would print below it."""
        lines = getattr(error, "_formatted_source_context", None)
        super().__init__(f"{error.message}\n{lines}" if lines else error.message)


class InventoryModule(yaml.InventoryModule):
    """Differs in its errors only."""

    NAME = "fleet_yaml"

    def verify_file(self, path: str) -> bool:
        """Take every file, so that one that is no inventory is refused with a reason."""
        return bool(BaseFileInventoryPlugin.verify_file(self, path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Read a file.

        Raises:
            MistakeError: It is not an inventory.
        """
        try:
            self._parse(inventory, loader, path, cache)
        except AnsibleError as error:
            raise MistakeError(error) from None

    def _parse(self, inventory: Any, loader: Any, path: str, cache: bool) -> None:
        file = Path(path)
        text = file.read_text(encoding="utf-8", errors="replace")
        # Hosts without a group may come before the first section.
        if SECTION.search(text):
            self._by("ini", inventory, loader, path, cache)
            return
        if file.suffix not in self.get_option("yaml_extensions") and is_beside(file, text):
            return
        if not yaml.InventoryModule.verify_file(self, path):
            raise AnsibleParserError(
                f"{path} is not an inventory: it is neither YAML nor INI, and not a program that may be executed. Move "
                f"it out of {file.parent}, or name only the file with the hosts: -i {file.parent / 'hosts.yml'}"
            )
        # The error of the YAML parser knows the place, and what Ansible makes of it does not.
        data = loader.load_from_file(path, cache="none")
        if isinstance(data, Mapping) and data.get("plugin"):
            self._by("auto", inventory, loader, path, cache)
            return
        if not data or not isinstance(data, Mapping):
            found = kind(data) if data else "nothing"
            raise AnsibleParserError(
                f"{path} has {found} where groups are wanted, each with {', '.join(SECTIONS)}. "
                "inventories/production/hosts.yml is an example."
            )
        super().parse(inventory, loader, path, cache)  # type: ignore[no-untyped-call]  # Ansible's own

    def _by(self, name: str, inventory: Any, loader: Any, path: str, cache: bool) -> None:
        """Have another of Ansible's plugins read a file."""
        plugin = inventory_loader.get(name)
        if not plugin.verify_file(path):
            raise AnsibleParserError(f"{path} can't be read by the inventory plugin {name}.")
        plugin.parse(inventory, loader, path, cache=cache)

    def _parse_group(self, group: Any, group_data: Any) -> Any:
        """Read a group, and refuse invalid parts that Ansible would skip."""
        if group_data is not None and not isinstance(group_data, Mapping):
            raise AnsibleParserError(
                f"{group} is {kind(group_data)}, not a group. {BELONGS}", obj=group
            )
        for key, value in (group_data or {}).items():
            if key not in SECTIONS:
                raise AnsibleParserError(
                    f"The group {group} has `{key}`, but a group can have only {', '.join(SECTIONS)}. {BELONGS}",
                    obj=key,
                )
            if value is not None and not isinstance(value, (Mapping, str)):
                raise AnsibleParserError(
                    f"`{key}` of the group {group} is {kind(value)}. Write each name on a separate line, with a "
                    "colon and without a dash.",
                    obj=key,
                )
        hosts = (group_data or {}).get("hosts")
        for host, variables in hosts.items() if isinstance(hosts, Mapping) else ():
            if variables is not None and not isinstance(variables, Mapping):
                raise AnsibleParserError(
                    f"{host}, among the hosts of the group {group}, is {kind(variables)}, not a host with its "
                    "variables. Indent a host's variables deeper than its name.",
                    obj=host,
                )
        return super()._parse_group(group, group_data)  # type: ignore[no-untyped-call]  # Ansible's own
