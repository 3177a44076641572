"""The parts of `scripts/bench_delivery.py`: the setup of both sides, the load, and the judgement of figures."""
