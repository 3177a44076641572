"""Beat's life and its schedule."""
