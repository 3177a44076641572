"""Brings a host to its desired state: files, units, live settings of Redis, fingerprints.

Runs on hosts, as root, inside the module `reconcile`; in check mode it changes nothing.
"""
