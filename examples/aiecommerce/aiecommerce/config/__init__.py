"""Configuration of what is not Django itself."""
