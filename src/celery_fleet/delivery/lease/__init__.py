"""Keep what a worker holds, and return what nobody holds any more."""
