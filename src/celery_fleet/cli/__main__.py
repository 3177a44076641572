"""Run as a file by the command's own virtualenv in isolated mode, so add this package's directory to the path."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.cli.main import run

if __name__ == "__main__":
    run()
