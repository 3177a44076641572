"""The rolling restart: its order, its state, and the turns of each host."""
