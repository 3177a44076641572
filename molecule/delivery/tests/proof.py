"""The hosts of the three scenarios of the delivery, and where what they find is kept."""

from __future__ import annotations

import json

from ground import Ground
from support import resp
from support.inventory import Fleet, load_fleet


def broker_version(fleet: Fleet) -> str:
    """The broker's name and version, as `Redis 7.0.15`."""
    with resp.session(fleet, "broker", "admin") as admin:
        lines = str(admin.send("INFO", "server")).splitlines()
    found = dict(line.partition(":")[::2] for line in lines)
    if "valkey_version" in found:
        return f"Valkey {found['valkey_version']}"
    return f"Redis {found['redis_version']}"


def make_ground() -> Ground:
    """The hosts; which broker they were is kept beside the results, for the report."""
    ground = Ground(load_fleet(), "delivery")
    about = {"broker": broker_version(ground.fleet)}
    (ground.results / "about.json").write_text(json.dumps(about) + "\n")
    return ground
