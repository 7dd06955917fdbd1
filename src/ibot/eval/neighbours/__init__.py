"""What lies near in feature space: exact search and what is made of it."""
