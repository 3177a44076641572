"""Settings: `local`, for a developer, and `production`, for all other places, both read `base`."""
