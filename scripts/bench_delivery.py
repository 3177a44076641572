"""`make bench-delivery`: what the atomic take costs beside stock Celery's; `delivery/bench.py` tells how."""

import sys

from scripts.delivery.bench import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
