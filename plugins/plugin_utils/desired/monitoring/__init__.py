"""Computes files for Prometheus, Alertmanager and Grafana from the inventory."""
