"""The probe by the name that older control nodes call, when a fleet goes back to their version.

Remove it, and `tests/unit/runtime/test_old_names.py`, when no version is left that calls it.
"""

import os

from celery_fleet.ops.probe import main

if __name__ == "__main__":
    os._exit(main())
