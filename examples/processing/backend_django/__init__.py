"""Requests that are processed by a worker while whoever made them asks how they stand."""
