"""What the scenario `restarts` has measured: read, judged, and shown as a table and a picture.

    record     what was sent, begun and ended, as the database has it
    judge      lost and doubled tasks with their causes
    measure    waits, consumers, the critical path, throughput
    picture    throughput and lost tasks over time, as SVG
    report     docs/restarts.md and its picture: `python -m scripts.restarts.report`

The scenario's tests measure; these functions are plain ones over plain data, and tested without hosts.
"""
