"""Lookup `expected`: this host's variables as the deploy will see them, for the tests."""

from __future__ import annotations

import re
from typing import Any

from ansible.errors import AnsibleUndefinedVariable
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: expected
author: Celery Fleet
short_description: All variables whose names match a pattern, rendered
description:
  - Returns one dictionary. A variable that needs another which this host does not have, such as the default of
    a role that does not run on it, is left out, so that a test that asks for it fails by its name.
options:
  _terms:
    description: One regular expression for whole names.
    required: true
"""


class LookupModule(LookupBase):
    """Renders one variable at a time, so that one failure does not affect the others."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[Any]:
        """Return the rendered variables of the current host."""
        pattern = re.compile(str(terms[0]))
        found = {}
        for name in sorted(filter(pattern.fullmatch, variables)):
            try:
                found[str(name)] = _plain(self._templar.template(variables[name]))
            except AnsibleUndefinedVariable:
                continue
        return [found]


def _plain(value: Any) -> Any:
    """Return `value` fully rendered: Ansible renders nested values only when they are first read."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
