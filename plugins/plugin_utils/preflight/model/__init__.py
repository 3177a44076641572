"""The inventory as preflight sees it: rendered values, their places in files, and their redacted text."""
