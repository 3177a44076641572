"""Brings a host to its desired state: files, units, live settings of Redis, fingerprints."""
