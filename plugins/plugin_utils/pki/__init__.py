"""Certificates on the control node."""
