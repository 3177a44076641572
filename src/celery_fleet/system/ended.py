"""Count how the processes of a unit end: ExecStopPost= of workers, beat, the web process and Flower.

    /usr/bin/python3 -S -I ended.py /var/lib/celery-fleet/ends/<unit>.json RESULT

RESULT is systemd's ``$SERVICE_RESULT``, such as ``success``, ``exit-code`` or ``watchdog`` (systemd.exec(5)). systemd
itself only knows the last one, and forgets it at the next start. The file is ``{"format": 1, "results": {"watchdog":
1}}``.

It is run as root, outside the unit's sandbox, without the process's environment. Its status is always 0. Standard
library only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # `python3 -I` leaves the directory of a file that it runs out of the path; the package is beside it.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common import counters


def main(argv: Sequence[str]) -> int:
    """Count one end; an error is only told, since a full disk must not change the unit's result."""
    path, result = argv
    try:
        counters.add(Path(path), {result: 1}, "results")
    except OSError as error:
        # The journal reads a line's level at its beginning (sd-daemon(3)).
        print(f"<4>the end of the process is not counted: {error}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
