"""From images to features: views, tokens, the cache on disk."""
