"""Checks Ansible's own variables: with these values it could not reach each host, or not as root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from ..model.inventory import Model, Problem, Severity, as_text

_LOCAL: Final = ("local", "ansible.builtin.local")
# False as YAML and INI files write it.
_OFF: Final = ("false", "no", "off", "n", "f", "0")
_INTERPRETER: Final = "ansible_python_interpreter"
# Usual names of directories with a virtualenv.
_VIRTUALENVS: Final = frozenset(("venv", ".venv", "env", ".env", "virtualenv", "virtualenvs"))


def is_local(model: Model, host: str) -> bool:
    """Return whether the host is the machine on which Ansible runs."""
    return model.value(host, "ansible_connection") in _LOCAL


def check_local(model: Model) -> Iterator[Problem]:
    """Refuse several hosts that would all be the machine on which Ansible runs."""
    hosts = tuple(host for host in model.hosts if is_local(model, host))
    if len(hosts) > 1:
        yield Problem(
            "ansible_connection",
            "makes all of these hosts the machine on which Ansible runs, but one machine can't be several hosts of a "
            "fleet",
            "remove it and give each host its address in ansible_host. To use this machine only, keep one host and "
            "put it in several groups",
            value="local",
            hosts=hosts,
        )


def check_python(model: Model) -> Iterator[Problem]:
    """Warn about a virtualenv's Python: it is removed with its release, and lacks Debian's modules for Python."""
    for host in model.hosts:
        text = as_text(model.value(host, _INTERPRETER))
        if text is None:
            continue
        path, root = PurePosixPath(text), as_text(model.value(host, "celery_app_root"))
        if root and path.is_relative_to(root):
            what = f"is below {root}, where releases come and go"
        elif _VIRTUALENVS & {*path.parts}:
            what = "is the Python of a virtualenv"
        else:
            continue
        yield Problem(
            _INTERPRETER,
            f"{what}. Ansible manages the host with this Python, and needs one that is always there and has Debian's "
            "python3-apt",
            "remove it, or write /usr/bin/python3. The Python of releases is celery_release_python",
            value=model.show((_INTERPRETER,), text),
            hosts=(host,),
            severity=Severity.WARNING,
        )


def check_root(model: Model) -> Iterator[Problem]:
    """Refuse hosts on which Ansible stays an ordinary user."""
    for host in model.hosts:
        user = as_text(model.value(host, "ansible_user")) or as_text(
            model.value(host, "ansible_ssh_user")
        )
        become = model.value(host, "ansible_become")
        if (
            is_local(model, host)
            or user in (None, "root")
            or str(become).strip().lower() not in _OFF
        ):
            continue
        yield Problem(
            "ansible_become",
            f"is off, but Ansible logs in as {user}, who is not root, so it could not install anything",
            f"write ansible_become: true and let {user} use sudo; or log in as root (ansible_user: root)",
            value=model.show(("ansible_become",), become),
            hosts=(host,),
        )
