"""The application's files are complete."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.marketplace_ops import documented


def test_the_readme_names_every_task_and_entry(example: Path) -> None:
    readme = (example / "README.md").read_text()
    for task, queue in documented.TASKS.items():
        module, _, name = task.rpartition(".")
        assert f"**`{module}.…`**, queue `{queue}`" in readme
        assert re.search(rf"^\| `{name}\(", readme, re.MULTILINE), name
    for entry, (task, _) in documented.SCHEDULE.items():
        assert f"| {entry} | `{task}` |" in readme
