"""Measure what runs of site.yml cost, on hosts made for it: `python -m scripts.bench`."""
