"""The inventory as preflight sees it: rendered values, where they come from, and what is printed of them."""
