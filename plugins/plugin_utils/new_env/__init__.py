"""Makes a new environment: reads and checks its options, renders its files and writes them to disk.

Runs on the control node, for `make new-env` and the playbook `new_env`. It calls no host and overwrites no
file.
"""
