"""Images with more than a class each: boxes, label maps, masks over frames, right answers."""
