"""FlexiPrice: discounts for goods that near their expiry date."""
