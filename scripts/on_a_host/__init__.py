"""Write docs/on-a-host.md from dry runs of `site.yml`: `python -m scripts.on_a_host`."""
