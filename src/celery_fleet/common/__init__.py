"""Helpers for every other package; standard library only."""
