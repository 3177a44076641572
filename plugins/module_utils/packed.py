"""Data as one argument of a module: compressed, and told by no log."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any


def pack(data: Any) -> str:
    """JSON, compressed and in base64."""
    return base64.b64encode(zlib.compress(json.dumps(data, default=str).encode())).decode()


def unpack(text: str) -> Any:
    """What `pack` was given."""
    return json.loads(zlib.decompress(base64.b64decode(text)))
