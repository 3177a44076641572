"""Refuses an inventory or a host that can't become a fleet, before anything is changed.

Runs on the control node, on the inventory and on what hosts have answered. It changes nothing.
"""
