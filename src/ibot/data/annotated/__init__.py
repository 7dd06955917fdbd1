"""Images with more than a class: boxes and masks, label maps, videos, copies, ground truth."""
