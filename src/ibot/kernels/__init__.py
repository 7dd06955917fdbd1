"""What pays in C: functions beside their plain forms, and what says whether they are there."""
