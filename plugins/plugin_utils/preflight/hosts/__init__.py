"""Checks what was found on the hosts: systems, addresses, owners, certificates.

Runs on the control node, on the answers that `host_facts` has collected. It calls no host itself.
"""
