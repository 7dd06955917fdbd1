"""Looking around in one's own images by their features."""
