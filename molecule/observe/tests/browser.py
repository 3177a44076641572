"""A browser on a host, and the pictures that it takes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from prometheus import HOST
from support.inventory import ROOT, Fleet

#: Pictures of the pages; `make screenshots` puts those of the documentation into docs/pictures.
PICTURES = ROOT / ".state" / "results" / "pictures"
PROGRAM = Path(__file__).resolve().parents[1] / "files" / "browser.py"
INSTALL = (
    "export DEBIAN_FRONTEND=noninteractive; apt-get update && "
    "apt-get install --yes --no-install-recommends chromium chromium-driver python3-selenium fonts-dejavu-core"
)


class Browser:
    """A browser on prometheus1, which is not of the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        """Install it."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        done = fleet.execute(HOST, INSTALL, timeout=900)
        assert done.status == 0, done.errors
        fleet.must(HOST, "cat >/var/tmp/browser.py", stdin=PROGRAM.read_text())
        self._fleet = fleet

    def show(self, *pages: dict[str, str]) -> list[dict[str, str]]:
        """Open pages one after another; return title and text of each. A page's `name` is that of its picture."""
        given = [
            {**page, "picture": f"/tmp/{page['name']}.png"} if "name" in page else page
            for page in pages
        ]
        shown: list[dict[str, str]] = json.loads(
            self._fleet.must(HOST, ["python3", "/var/tmp/browser.py", json.dumps(given)])
        )
        for page in given:
            if "name" in page:
                encoded = self._fleet.must(HOST, ["base64", page["picture"]])
                (PICTURES / f"{page['name']}.png").write_bytes(base64.b64decode(encoded))
        return shown
