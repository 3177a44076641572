"""The rolling restart: its order, its state, and the turns of each host.

Runs on the control node. Each host's turns run in that host's own Ansible process; these share a locked file in a
private directory, and start, restart and stop workers on hosts by small scripts.
"""
