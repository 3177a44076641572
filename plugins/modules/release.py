#!/usr/bin/python
"""Ansible module behind the action plugin `release`: see `release/build.py`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Build a release of the application in its own directory and check it
description:
  - The release is imported as the application's user, as C(celery -A) would, and what it says of itself is compared
    with the inventory. One that fails leaves nothing behind.
  - Releases with the same requirements share a virtualenv. Its packages come from the index on the first host that
    needs them; the other hosts of its platform get them from there, by way of the control node.
options:
  id:
    description: Name of the release.
    type: str
    required: true
  archive:
    description: Its source, a tar archive on the control node. The action plugin sends it to hosts that need it.
    type: path
    required: true
  root:
    description: Directory of the application.
    type: path
    required: true
  directory:
    description: Directory within the source in which the processes run.
    type: str
    default: "."
  requirements:
    description: What the release needs, as C(release_source) returns it. The action plugin gives the module the name of
      the file.
    type: raw
    required: true
  hosts:
    description: Hosts that have this release. Only the action plugin uses them. If there is one, it keeps its packages.
    type: list
    elements: str
    default: []
  virtualenv:
    description: Name of the virtualenv. The action plugin sets it.
    type: str
    default: ""
  local:
    description: Whether a package is built from files of the source. The action plugin sets it.
    type: bool
    default: false
  index:
    description:
      - Where pip gets packages, C(celery_app_package_index).
      - The action plugin sends it to the host as compressed JSON in base64.
    type: raw
    default: ""
  build_packages:
    description: Debian packages that are only installed while Python packages are built.
    type: list
    elements: str
    default: []
  wheels:
    description: Archive of the packages, empty if the host has to get them. The action plugin sends it.
    type: path
    default: ""
  hand_over:
    description: Where to write such an archive for the other hosts. The action plugin sets it.
    type: path
    default: ""
  wheelhouse:
    description: Directory on the control node with the packages of all platforms, C(celery_release_wheelhouse). Only
      the action plugin uses it. In check mode it looks whether the packages are there.
    type: path
    default: ""
  only_wheels:
    description: Install no release. Only put the packages into the wheelhouse, if they are not there yet.
    type: bool
    default: false
  app:
    description: What C(celery -A) takes; empty if there is no application to check.
    type: str
    default: ""
  demands:
    description:
      - What the inventory wants of the release, a dictionary; see C(plugins/module_utils/release/suitability.py).
      - The action plugin sends it to the host as compressed JSON in base64.
    type: raw
    default: ""
  python:
    description: Interpreter of the virtualenv. The action plugin also takes a version, and gives the module the path.
    type: path
    default: /usr/bin/python3
  runtime:
    description: Directory of the host-side runtime.
    type: path
    required: true
  user:
    description: Unix user who imports the application.
    type: str
    required: true
  environment:
    description: Environment of the import.
    type: dict
    default: {}
  secret_environment:
    description: Its secret part.
    type: dict
    default: {}
  keep:
    description: Number of releases to keep in addition to those in use.
    type: int
    default: 5
  timeout:
    description: Seconds that the build may take, without the import.
    type: int
    default: 900
  import_timeout:
    description: Seconds that the import of the application may take.
    type: int
    default: 120
  compile_timeout:
    description: Seconds that compiling the source, or the packages, may take.
    type: int
    default: 900
author: Celery Fleet (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Build and check the release
  celery_fleet.core.release:
    id: "{{ source.id }}"
    archive: "{{ source.archive }}"
    requirements: "{{ source.requirements }}"
    hosts: "{{ groups['celery_workers'] }}"
    root: /opt/shop
    app: shop.celery
    runtime: /usr/lib/celery-fleet/1.0.0
    user: shop
"""

RETURN = r"""
release:
  description: Name of the release.
  returned: success
  type: str
path:
  description: Its directory.
  returned: success
  type: str
virtualenv:
  description: Name of its virtualenv.
  returned: success
  type: str
packages:
  description: Its packages; each has C(name), C(version) and the C(sha256) of its wheel.
  returned: success
  type: list
  elements: dict
handed_over:
  description: Whether it has written its packages for the other hosts.
  returned: when it was built
  type: bool
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.core.plugins.module_utils.release.build import (
    build,
    make_wheels,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    Build,
    BuildError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.virtualenv import (
    packages_of,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.transport import unpack


def main() -> None:
    """Build the release and return its path."""
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str", "required": True},
            "archive": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "directory": {"type": "str", "default": "."},
            "requirements": {"type": "raw", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "virtualenv": {"type": "str", "default": ""},
            "local": {"type": "bool", "default": False},
            # Packed like the demands: it has logins.
            "index": {"type": "raw", "default": "", "no_log": True},
            "build_packages": {"type": "list", "elements": "str", "default": []},
            "wheels": {"type": "path", "default": ""},
            "hand_over": {"type": "path", "default": ""},
            "wheelhouse": {"type": "path", "default": ""},
            "only_wheels": {"type": "bool", "default": False},
            "app": {"type": "str", "default": ""},
            # Packed, because Celery's settings may contain a secret and Ansible logs the arguments of modules.
            "demands": {"type": "raw", "default": "", "no_log": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "runtime": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            # Separate, because Ansible removes each value of a secret dictionary from all output, even "1" and "true".
            "secret_environment": {"type": "dict", "default": {}, "no_log": True},
            "keep": {"type": "int", "default": 5},
            "timeout": {"type": "int", "default": 900},
            "import_timeout": {"type": "int", "default": 120},
            "compile_timeout": {"type": "int", "default": 900},
        },
        supports_check_mode=False,
    )
    ours = ("hosts", "wheelhouse", "only_wheels")
    params = {name: value for name, value in module.params.items() if name not in ours}
    for name in ("demands", "index"):
        params[name] = unpack(params[name]) if params[name] else {}
    wanted = Build(**params)
    try:
        if module.params["only_wheels"]:
            make_wheels(wanted)
            module.exit_json(changed=True)
        for warning in build(wanted):
            module.warn(f"release {wanted.id}: {warning}")
    except (BuildError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=True,
        release=wanted.id,
        path=str(wanted.path),
        virtualenv=wanted.virtualenv,
        packages=packages_of((wanted.path / "venv").resolve()),
        handed_over=os.path.isfile(wanted.hand_over),
    )


if __name__ == "__main__":
    main()
