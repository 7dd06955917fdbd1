"""Looking around in one's own images by their features: a search, and a page to explore them."""
