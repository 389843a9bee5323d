"""Records of a run: the message hub, the logger and the log lines."""
