"""Checks the facts of the hosts against the inventory: systems, addresses, owners, certificates.

Runs on the control node, on the answers that `host_facts` has collected. It contacts no host itself.
"""
