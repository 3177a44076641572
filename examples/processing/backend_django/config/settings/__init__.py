"""Settings: `base` is read by both `local`, for a developer, and `production`, for everybody else."""
