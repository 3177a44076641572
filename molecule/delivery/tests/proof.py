"""The hosts of the three scenarios of the delivery, and where what they find is kept."""

from __future__ import annotations

import json

from ground import Ground
from support import resp
from support.inventory import load_fleet


def make_ground() -> Ground:
    """The hosts; which broker they have is kept beside the results, for the report."""
    ground = Ground(load_fleet(), "delivery")
    about = {"broker": resp.version(ground.fleet, "broker")}
    (ground.results / "about.json").write_text(json.dumps(about) + "\n")
    return ground
