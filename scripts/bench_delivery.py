"""`make bench-delivery`: what the delivery costs beside stock Celery; `delivery/bench.py` tells how it is measured."""

import sys

from scripts.delivery.bench import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
