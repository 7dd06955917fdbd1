"""The method: losses, centers, moving average, student and teacher, one step."""
