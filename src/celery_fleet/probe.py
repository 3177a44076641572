"""The probe under the name that older control nodes call, when a fleet returns to their version.

Remove it, and `tests/unit/runtime/test_old_names.py`, when no such version is left.
"""

from celery_fleet.common.answering import serve
from celery_fleet.ops.probe import run
from celery_fleet.ops.probe_request import parse_request

if __name__ == "__main__":
    serve(parse_request, run)
