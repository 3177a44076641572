"""Scripts that are sent to a host as text and run by its Python; standard library only."""
