"""What `scripts/bench_delivery.py` is made of: the setup of both sides, the load, and how figures are judged."""
