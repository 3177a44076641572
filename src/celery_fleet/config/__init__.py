"""The inventory's settings: read, checked, and pinned over the application's.

They run in every process of the application and in programs of the release's Python. They read the process's
``settings.json`` and write no file; pinning changes ``app.conf`` in memory.
"""
