"""Programs that are timed: each is run as a fresh process and imports no more than it needs."""
