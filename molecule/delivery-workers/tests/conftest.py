"""The means are those of the scenarios `restarts`, `delivery` and `delivery-conditions`."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "restarts" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "restarts-faults" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "delivery" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "delivery-conditions" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from proof import (  # noqa: F401  # fixtures and hooks, which pytest finds by their names
    ground,
    nothing_refused,
    numbers,
    pytest_collection_modifyitems,
    pytest_configure,
)
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)

from scripts.restarts.verdicts import (  # noqa: F401  # the same
    pytest_runtest_logreport,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
)
