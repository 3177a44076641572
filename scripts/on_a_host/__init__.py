"""What docs/on-a-host.md says, told from dry runs of `site.yml`: `python -m scripts.on_a_host`."""
