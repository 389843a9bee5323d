"""What a run records of itself: the message hub, the logger and the log lines."""
