"""Computes the desired state of a host from the inventory, by pure functions."""
