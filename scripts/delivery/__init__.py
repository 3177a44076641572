"""What `scripts/bench_delivery.py` is made of: the ground it measures on, the load, and how figures are judged."""
