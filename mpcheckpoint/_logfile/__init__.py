"""One log file: appended to under a lock, made durable, read, judged, repaired, replaced by another generation."""
