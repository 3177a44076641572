"""The name of a release command's log. A test without hosts compares it with a log that is really written."""

from __future__ import annotations

import re

LOG = re.compile(
    r"\d{8}T\d{6}Z-(?P<release>[0-9a-f]+)-(?P<name>[\w-]+)-(?P<attempt>[0-9a-f]{8})\.log"
)
