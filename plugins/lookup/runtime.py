"""Lookup `runtime`: returns the package that runs on the hosts as files of their desired state."""

from __future__ import annotations

DOCUMENTATION = r"""
name: runtime
author: Celery Fleet (!UNKNOWN)
short_description: Return the host-side runtime of this collection
description:
  - Returns the package that runs on the hosts, as files for M(celery_fleet.core.reconcile).
  - Its version ends in a hash of the content, so that two checkouts never share a directory on a host, and a running
    process never sees its modules change.
options: {}
"""

EXAMPLES = r"""
- name: Say where the runtime is on a host
  ansible.builtin.debug:
    msg: "{{ lookup('celery_fleet.core.runtime').directory }}"
"""

RETURN = r"""
_raw:
  description:
    - One dictionary with C(version) and C(directory) on the host.
    - C(directories) have C(path). C(files) have C(dest) and C(content).
    - C(wrapper) is the text of the command that finds an application's runtime.
  type: list
  elements: dict
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

_ROOT = Path(__file__).resolve().parents[2]
_cache: dict[str, Any] = {}


class LookupModule(LookupBase):
    """Reads src/celery_fleet once in each process."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[Any]:
        """Return version, directory and files of the runtime."""
        if not _cache:
            _cache.update(_read())
        return [_cache]


def _read() -> dict[str, Any]:
    package = _ROOT / "src" / "celery_fleet"
    sources = {
        str(path.relative_to(package)): path.read_text() for path in sorted(package.rglob("*.py"))
    }
    # Also returned separately: as the host's command it belongs to no version, and each application installs it.
    wrapper = sources["cli/wrapper.py"]
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:8]
    named = re.search(r'^__version__ = "(.+)"$', sources["__init__.py"], re.MULTILINE)
    if named is None:
        raise AnsibleError(f"{package / '__init__.py'} does not say which version it is")
    version = f"{named[1]}-{digest}"
    directory = f"/usr/lib/celery-fleet/{version}"
    places = sorted({Path("celery_fleet", name).parent for name in sources})
    files = [
        {"dest": f"{directory}/celery_fleet/{name}", "content": text, "diff": False}
        for name, text in sources.items()
    ]
    return {
        "version": version,
        "directory": directory,
        "directories": [
            {"path": path} for path in (directory, *(f"{directory}/{place}" for place in places))
        ],
        "files": files,
        "wrapper": wrapper,
    }
