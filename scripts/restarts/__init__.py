"""Read and judge the measurements of the scenario `restarts`, and show them as a table and a picture.

    record     what was sent, started and ended, from the database
    judge      lost and doubled tasks with their causes
    measure    waits, consumers, the critical path, throughput
    picture    throughput and lost tasks over time, as SVG
    report     docs/restarts.md and its picture: `python -m scripts.restarts.report`

The scenario's tests take the measurements. The functions here work on plain data, so they are tested without hosts.
"""
