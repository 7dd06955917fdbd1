"""What was measured, side by side."""
