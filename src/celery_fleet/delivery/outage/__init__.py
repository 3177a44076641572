"""Keep a worker going while the broker is away."""
