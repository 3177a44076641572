"""Builds a release, and reads its note."""
