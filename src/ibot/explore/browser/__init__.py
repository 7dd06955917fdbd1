"""The explorer: a server on this machine, and the page that a browser gets from it."""
