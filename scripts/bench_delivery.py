"""`make bench-delivery`: compare the cost of the atomic fetch with stock Celery's; see `delivery/bench.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from scripts.delivery.bench import run  # it imports from both

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
