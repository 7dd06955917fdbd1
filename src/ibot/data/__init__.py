"""From files to batches: sources, decoding, view parameters, pixels, masks, loader, generated
scenes.
"""
