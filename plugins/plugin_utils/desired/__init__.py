"""From the inventory to the desired state of a host: pure functions."""
