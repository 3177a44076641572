"""Inventory plugin `fleet_yaml`: Ansible's own `yaml`, with the line and column of a mistake."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import yaml

DOCUMENTATION = """
name: fleet_yaml
short_description: Reads inventories as Ansible's own yaml does, and says where a mistake is
description:
  - The same as M(ansible.builtin.yaml), which names no line of a file that is no YAML.
options:
  yaml_extensions:
    description: Endings of the files that it reads.
    type: list
    elements: string
    default: [".yaml", ".yml", ".json"]
"""


class InventoryModule(yaml.InventoryModule):
    """Differs in its errors only."""

    NAME = "fleet_yaml"

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Read a file.

        Raises:
            AnsibleParserError: It is no inventory.
        """
        try:
            super().parse(inventory, loader, path, cache)  # type: ignore[no-untyped-call]  # Ansible's own
        except AnsibleParserError as error:
            # The error of the YAML parser knows the place, and what Ansible makes of it does not.
            if isinstance(error.__context__, AnsibleError):
                raise error.__context__ from None
            raise
