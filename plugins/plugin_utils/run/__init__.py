"""One run of a playbook: its lease, plan, report, release commands and source.

Runs on the control node, called by action plugins. It calls hosts by modules and by the scripts in `scripts`.
"""
