"""Checks the control node itself, and whether the inventory's hosts exist yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..model.inventory import Model, Problem, Severity, as_text

ANSIBLE_FROM: Final = (2, 19)
ANSIBLE_BELOW: Final = (2, 21)
PYTHON_FROM: Final = (3, 11)


def check_versions(model: Model) -> Iterator[Problem]:
    """Refuse old versions of ansible-core and of the Python that runs it; warn of an ansible-core that is too new."""
    ansible = version(model.control.ansible_version)
    if not ANSIBLE_FROM <= ansible < ANSIBLE_BELOW:
        is_new = ansible >= ANSIBLE_BELOW
        yield Problem(
            "ansible-core",
            f"is not at least {_text(ANSIBLE_FROM)} and below {_text(ANSIBLE_BELOW)}"
            + (", the versions that are tested" if is_new else ""),
            f"pip install 'ansible-core>={_text(ANSIBLE_FROM)},<{_text(ANSIBLE_BELOW)}'; in a checkout, run make setup "
            "and use .venv/bin/ansible-playbook",
            severity=Severity.WARNING if is_new else Severity.ERROR,
            value=model.control.ansible_version,
        )
    if version(model.control.python_version) < PYTHON_FROM:
        yield Problem(
            "python",
            f"on the control node is older than {_text(PYTHON_FROM)}",
            f"install Python {_text(PYTHON_FROM)} or newer, and ansible-core with it; in a checkout, run make setup",
            value=model.control.python_version,
        )


def too_old(ansible: str) -> str:
    """Return the refusal of an ansible-core with which our plugins can't be loaded; empty if it is new enough."""
    if version(ansible) >= ANSIBLE_FROM:
        return ""
    oldest = _text(ANSIBLE_FROM)
    return (
        f"This is ansible-core {ansible}, but Celery Fleet needs {oldest} or newer. Nothing was changed. Install a "
        f"newer one (`pip install 'ansible-core>={oldest}'`). In a checkout, `make setup` does so: use its "
        ".venv/bin/ansible-playbook."
    )


#: Settings of ansible.cfg that break a run: the values that are refused, what they would do, and another value.
SETTINGS: Final = {
    "strategy": (
        re.compile(r".*(free|host_pinned)"),
        "lets hosts run ahead of each other, so each would start a deploy of its own",
        "linear",
    ),
    "private_role_vars": (re.compile("True"), "hides what playbooks and roles share", "false"),
}


def check_settings(model: Model) -> Iterator[Problem]:
    """Refuse settings of Ansible with which a run would end in the middle or do something else."""
    for name, value in model.control.settings.items():
        refused, why, other = SETTINGS[name]
        if refused.fullmatch(value):
            yield Problem(
                f"ansible.cfg: {name}",
                why,
                f"remove it from the ansible.cfg, or set ANSIBLE_{name.upper()}={other} for these runs",
                value=value,
            )


def check_hosts_exist(model: Model) -> Iterator[Problem]:
    """Refuse hosts without an address if the inventory says how to make its hosts."""
    hints: dict[str, list[str]] = {}
    for host in model.hosts:
        hint = as_text(model.value(host, "preflight_hosts_hint"))
        if hint and "ansible_host" not in model.given.get(host, frozenset()):
            beside = _addresses_beside(model, host)
            hints.setdefault(f"{beside}{hint}", []).append(host)
    for hint, hosts in hints.items():
        yield Problem(
            "ansible_host",
            "is not known: these hosts do not exist yet",
            hint,
            hosts=tuple(hosts),
        )


def _addresses_beside(model: Model, host: str) -> str:
    """Return a hint if one file of an inventory was given, and another beside it has the addresses."""
    file = as_text(model.raw.get(host, {}).get("inventory_file"))
    if file is None:
        return ""
    others = [
        path.name
        for suffix in ("yml", "yaml")
        for path in sorted(Path(file).parent.glob(f"*.{suffix}"))
        if path.name != Path(file).name and "ansible_host" in path.read_text(errors="replace")
    ]
    if not others:
        return ""
    return f"{others[0]} beside it has addresses; use the whole directory, -i {Path(file).parent}. Otherwise: "


def version(text: str) -> tuple[int, int]:
    """Return major and minor of a version, or (0, 0) if there is none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _text(numbers: tuple[int, int]) -> str:
    return ".".join(str(number) for number in numbers)
