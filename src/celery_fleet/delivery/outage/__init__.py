"""Keep a worker going while the broker is away.

It runs in a worker and changes parts of Celery and kombu there. It writes pending acknowledgements to a file in the
unit's runtime directory, and puts messages back on the broker.
"""
