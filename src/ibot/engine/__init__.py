"""Pre-training: loop, schedules, optimizer, checkpoints, the run's folder, logs, health."""
