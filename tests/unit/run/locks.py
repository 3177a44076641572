"""Sources with a lock, and what packing them adds."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import Packed, pack


def source(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def packed(root: Path, **wanted: Any) -> tuple[Packed, dict[str, str]]:
    """The packed source, and what was added to its files."""
    scratch = root.parent / f"scratch{len(list(root.parent.iterdir()))}"
    scratch.mkdir()
    made = pack({"path": str(root), **wanted}, root, scratch, "")
    with tarfile.open(fileobj=BytesIO(made.archive)) as opened:
        added = {
            member.name: stream.read().decode()
            for member in opened
            if ".celery-fleet" in member.name and (stream := opened.extractfile(member))
        }
    return made, added
