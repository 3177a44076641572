"""Replace parts of the collection, for tests that run Ansible.

Ansible looks for a collection in a single place, so another search path can't replace one of its plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = ROOT / "collections/ansible_collections/celery_fleet/core"


def replaced(
    directory: Path, *, actions: Iterable[Path] = (), parts: Mapping[str, Path] | None = None
) -> str:
    """Make a collection of links to the delivered one.

    Args:
        directory: Where it goes.
        actions: Action plugins that replace those of the same name.
        parts: Paths below the collection, such as `roles/systemd_unit`, and what is there instead.

    Returns:
        The value of `ANSIBLE_COLLECTIONS_PATH`.
    """
    instead = {f"plugins/action/{path.name}": path for path in actions} | dict(parts or {})
    made = directory / "collections/ansible_collections/celery_fleet/core"
    _link(COLLECTION, made, {made / name: path for name, path in instead.items()})
    return str(directory / "collections")


def plain(value: Any) -> Any:
    """Return the value without Ansible's lazy containers, so that everything in it is rendered."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _link(delivered: Path, made: Path, instead: Mapping[Path, Path]) -> None:
    """Make a directory where something below it is replaced, and else a link."""
    if made.is_symlink():  # by an earlier run of the same test
        return
    if made in instead:
        made.symlink_to(instead[made])
    elif any(made in path.parents for path in instead):
        made.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in delivered.iterdir()}
        names |= {path.relative_to(made).parts[0] for path in instead if made in path.parents}
        for name in sorted(names):
            _link(delivered / name, made / name, instead)
    else:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.symlink_to(delivered)
