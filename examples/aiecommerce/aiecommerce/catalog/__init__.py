"""Products, from a supplier's site to a listing in Mercado Libre."""
