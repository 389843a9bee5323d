"""Resumable data loaders, per-sample random streams, and handling of unreadable samples."""
