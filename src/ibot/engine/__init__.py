"""Running a training: loop, schedules, optimizer, checkpoints, logs, health, processes."""
