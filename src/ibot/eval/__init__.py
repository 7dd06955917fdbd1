"""Evaluations of a backbone, frozen or tuned: what they share, and a folder for each family."""
