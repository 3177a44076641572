"""The files that stand for suppliers' and marketplaces' interfaces: no network is needed, and answers are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.running import SourceUnavailable


def read(directory: Path, code: str, kind: str) -> Any:
    """The content of `<code>-<kind>.json`."""
    path = directory / f"{code}-{kind}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceUnavailable(f"{path.name} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise SourceUnavailable(f"{path.name} is no JSON: {error}") from error
