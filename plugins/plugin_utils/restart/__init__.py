"""The rolling restart: the order, its state, and the turns of a host."""
