"""Run several beats with a moved clock over two years, end them at random, and count what they send.

    python -m scripts.beat_faults           write the table in docs/schedules.md; this takes about ten minutes
    python -m scripts.beat_faults --check   exit status 1 if it differs from what this finds

Three hosts run beat's own code, with the fleet's election and what it does with missed runs, and send to a real Redis.
Time is simulated: it jumps from one event to the next. Redis counts real seconds, so the lease of the beat that sends
ends by the simulated clock. Every random choice comes from a seed, but Celery loads entries in the order of a set: with
another PYTHONHASHSEED, other messages are lost with their beat, and a few counts differ by one. `scripts.clock_changes`
finds which slots there are, without Celery's code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
