"""From files to batches: sets of images, decoding, views, masks, the loader, generated scenes."""
