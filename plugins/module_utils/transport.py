"""Packs data into one module argument, so that it is small and no log shows it in plain text.

Action plugins pack on the control node; modules unpack on the host.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any


def pack(data: Any) -> str:
    """Return data as compressed JSON in base64."""
    return base64.b64encode(zlib.compress(json.dumps(data, default=str).encode())).decode()


def unpack(text: str) -> Any:
    """Return the data that was given to `pack`."""
    return json.loads(zlib.decompress(base64.b64decode(text)))
