"""Computes the desired state of a host from the inventory, by pure functions.

Runs on the control node, mostly as filters. It reads and writes no file and calls no host.
"""
