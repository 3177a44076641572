"""Run as a file by the command's own virtualenv in isolated mode, so add this package's directory to the path."""

from __future__ import annotations

# Built into Python. The module `signal` loads others from files first, and Ctrl-C could come meanwhile.
import _signal  # type: ignore[import-not-found]  # typeshed does not have it

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # During the imports Ctrl-C ends this process without a traceback. run() restores the handler.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.cli.main import run

if __name__ == "__main__":
    run()
