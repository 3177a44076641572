"""A worker's life: readiness, drain, canary."""
