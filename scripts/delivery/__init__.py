"""What `scripts/bench_delivery.py` is made of: the ground it measures on, the load, and how figures are judged."""

import sys
from pathlib import Path

# What the roles compute is a collection's, beside no package that Python would find by itself.
_CONTROL = str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils")
if _CONTROL not in sys.path:
    sys.path.insert(0, _CONTROL)
