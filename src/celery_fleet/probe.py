"""The probe under the name that older control nodes call, when a fleet returns to their version.

Remove it, and `tests/unit/runtime/test_old_names.py`, when no such version is left.
"""

import os

from celery_fleet.ops.probe import main

if __name__ == "__main__":
    os._exit(main())
