"""Images by number: in folders, lists, archives and memory, with labels or without."""
