"""Builds releases and reads their notes."""
