"""Run as a file by the command's own virtualenv in isolated mode, so add this package's directory to the path."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # During the imports Ctrl-C ends this process without a traceback. run() restores the handler.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.cli.main import run

if __name__ == "__main__":
    run()
