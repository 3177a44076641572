"""What the site itself has to remember."""
