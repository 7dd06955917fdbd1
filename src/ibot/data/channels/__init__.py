"""Images of any number of channels, in the types of their files: levels, readers, statistics."""
