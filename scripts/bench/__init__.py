"""What runs of site.yml cost, measured on hosts that it makes: `python -m scripts.bench`."""
