"""Run as a file by the command's own virtualenv in isolated mode, so add this package's directory to the path."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from celery_fleet.cli.exporter.program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
