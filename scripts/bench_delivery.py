"""`make bench-delivery`: compare the cost of the atomic fetch with stock Celery's; see `delivery/bench.py`."""

import sys

from scripts.delivery.bench import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
