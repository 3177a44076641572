"""Flash promotions: from their start to their archive, and who hears of them."""
