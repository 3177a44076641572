"""Programs that run in the release's Python (`python -m`) for the operator's command and the control node.

They run as the application's user and read a request as JSON from standard input. What they ask or change (workers, the
broker, the result store, databases) is in the head of each program.
"""
