"""Flash promotions: from their start to their archive, and who is told of them."""
